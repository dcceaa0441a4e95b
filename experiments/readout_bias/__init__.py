"""How the start of a readout's bias makes an LSTM healthy or sick."""
