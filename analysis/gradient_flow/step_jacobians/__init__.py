"""One step of a network, linearised: the ground of the microscope.

Start with `state_layout`: how the leaves of a state become the parts of one vector. `step_jacobian` is J_t =
∂s_t/∂s_{t−1} of a cell or of any step, `stack_jacobian` that of a stack. `vector_products` has J v and vᵀ J
without the matrix. `trajectory` runs a sample and keeps what a measurement needs. `checked_arguments` refuses
wrong input before any long work.

May import: `lstm_jax`.
"""
