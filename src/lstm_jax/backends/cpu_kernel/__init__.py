"""The compiled CPU kernel: a whole sequence in one call, in C++ through XLA's foreign function interface.

Start with `native/lstm.h`: the equations, and how rows, panels and threads are laid out. `kernel_derivatives`
gives the call every derivative of JAX, `conditions` says what it runs, `library` loads it, and `build`
compiles it.
"""
