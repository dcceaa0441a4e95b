"""Speakers recognised by a bidirectional LSTM on sequences of different lengths."""
