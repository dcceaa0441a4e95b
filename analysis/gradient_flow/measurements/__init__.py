"""Measurements: one public function for each question, answered with numbers.

Start with `jacobian_norms`: the norms of ∂h_t/∂h_k and ∂C_t/∂C_k against the lag. `curve_summary` reduces
such a curve to a horizon. The others: `detours` and `gate_paths` (which path carries the gradient), `credit`,
`lyapunov`, `singular_spectrum`, `step_gain`, `random_probes` (for thousands of units), `gates`, `by_layer`,
`autodiff_norms`, and `training_watch` (over a training run).

May import: `step_jacobians`, `long_products` and `lstm_jax`.
"""
