"""Additions to JAX that know nothing of recurrent networks.

Start with `linear_map`: a linear function whose transpose is written by hand, which makes a hand-derived rule
work under `jax.grad`, `jax.jvp` and `jax.vmap` to any order. `platform_switch` runs one function on one
platform and another elsewhere, `weight_with_transpose` a matrix that a loop multiplies by at every step,
`mesh_axes` the axes over which an array differs between devices, and `matmul_precision` the precision of
matrix products.

May import: `lstm_jax.array_types` and `lstm_jax.validation`.
"""
