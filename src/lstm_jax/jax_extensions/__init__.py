"""Additions to JAX that know nothing of recurrent networks.

Start with `linear_map`: a linear function whose transpose is written by hand, which makes a hand-derived rule
work under `jax.grad`, `jax.jvp` and `jax.vmap` to any order. `weight_with_transpose` is a matrix that a loop
multiplies by at every step, `mesh_axes` the axes over which an array differs between devices,
`matmul_precision` the precision of matrix products, and `row_major` the order in which kernels of other
libraries read arrays.

May import: `lstm_jax.array_types` and `lstm_jax.validation`.
"""
