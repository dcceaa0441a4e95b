"""Along which path, through which gate and to which input a gradient goes."""
