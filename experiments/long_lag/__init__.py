"""Which networks learn which lags, and whether the gradient's horizon tells beforehand."""
