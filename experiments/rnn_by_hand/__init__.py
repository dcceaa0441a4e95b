"""Back-propagation through a vanilla network, against published digits and against PyTorch."""
