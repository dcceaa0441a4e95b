"""What JAX lacks and this project needs. Nothing here knows what a recurrent network is.

Start with `linear_map`: a linear function whose transpose is written by hand, which makes a hand-derived rule
work under `jax.grad`, `jax.jvp` and `jax.vmap` to any order. `platform_switch` has one function for one
platform and another elsewhere, `weight_with_transpose` a matrix that a loop multiplies by at every step,
`mesh_axes` the axes over which an array differs between devices, and `matmul_precision` the precision of
matrix products.

May import: `lstm_jax.array_types` and `lstm_jax.validation`.
"""
