"""Published derivations and sayings about recurrent gradients, put to the test."""
