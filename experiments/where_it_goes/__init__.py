"""The paths, gates and inputs through which a gradient goes."""
