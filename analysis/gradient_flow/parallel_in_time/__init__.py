"""States, transitions and cotangents computed in parallel over time. Experimental.

Start with `products`: transitions and cotangents by the associative scan of `associative_scan`.
`newton_states` computes all states at once (DEER, parallel Newton iteration over time). They are faster on
devices with many cores.

May import: `step_jacobians`, `long_products` and `lstm_jax`.
"""
