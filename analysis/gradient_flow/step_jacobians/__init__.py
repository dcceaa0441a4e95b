"""The Jacobian of one step of a network, and its products with vectors.

Start with `state_layout`: how the leaves of a state become the parts of one vector. `step_jacobian` is J_t =
∂s_t/∂s_{t−1} of a cell or of any step, `stack_jacobian` that of a stack. `vector_products` has J v and vᵀ J
without the matrix. `trajectory` runs a cell and keeps its states. `checked_arguments` refuses wrong input
before any long work.

May import: `lstm_jax`.
"""
