"""What the gradient does in trained recurrent networks that people have installed."""
