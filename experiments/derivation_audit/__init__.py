"""Published derivations and claims about recurrent gradients, tested."""
