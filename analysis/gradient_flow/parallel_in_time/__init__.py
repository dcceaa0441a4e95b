"""The same products and states, parallel in time. Experimental.

Start with `products`: transitions and cotangents by an associative scan, which `associative_scan` has.
`newton_states` computes all states at once by Newton's method (DEER). They pay off on a device with many
cores.

May import: `step_jacobians`, `long_products` and `lstm_jax`.
"""
