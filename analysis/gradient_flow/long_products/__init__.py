"""Products of thousands of step Jacobians, without underflow.

Start with `scaled_matrix`: a matrix times powers of two. `transition` multiplies step Jacobians in that form,
and `backward_walk` goes back through a whole trajectory with it, by `chunk_of_steps`; `step_factors` runs the
cell and forms the Jacobians. `shared_scale` is the fast path, several walks on one scale. `qr_product` and
`qr_transition` keep the smallest singular values. `spectral_norm` and `jacobi_svd` compute norms.

May import: `step_jacobians` and `lstm_jax`.
"""
