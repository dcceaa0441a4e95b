"""Speakers told apart by a bidirectional LSTM on sequences of different lengths."""
