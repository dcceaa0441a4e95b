"""Which networks learn which lags, and whether the gradient's horizon predicts it."""
