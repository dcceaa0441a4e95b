"""NVIDIA's kernel for the standard LSTM.

Start with `kernel_derivatives`: the kernel as a function that JAX can differentiate. `kernel_call` is the
call itself, in the kernel's own axes. `conditions` says what the kernel cannot run. `agreement` compares it
with the loop before ``backend="auto"`` trusts it.
"""
