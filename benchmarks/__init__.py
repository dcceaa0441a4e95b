"""Side-by-side timings of `lstm_jax` and `gradient_flow` against their peers: ``python -m benchmarks``."""
