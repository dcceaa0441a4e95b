"""NVIDIA's kernel for the standard LSTM.

Start with `kernel_derivatives`: the kernel as a function that JAX can differentiate. `kernel_call` is the
call, in the kernel's axes. `conditions` has the networks that the kernel cannot run.
"""
