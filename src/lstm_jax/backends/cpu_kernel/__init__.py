"""The compiled CPU kernel: a whole sequence in one call, in C++ through XLA's foreign function interface.

Start with `native/cells.h`: the equations of each cell; `native/forward.h` and `native/backward.h` are the
loops over time. `kernel_call` makes them primitives of JAX (`arrays`: their arguments, `mapping`: `jax.vmap`,
`by_loop`: what runs where the kernel cannot), `kernel_derivatives` gives them every derivative, `conditions`
says what they run, `library` loads them, and `build` compiles them.
"""
