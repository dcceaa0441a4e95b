"""Which networks learn which lags, and how far their gradients reach meanwhile."""
