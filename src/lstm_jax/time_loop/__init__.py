"""Loops over time: direction, speed and masks.

Start with `scan`: `jax.lax.scan` with the best settings for the platform. `chunked_scan` is a scan whose
body gets several steps at once. `step_masks` changes the state between two steps: padding, resets,
truncation, zoneout and recurrent dropout.

May import: `jax_extensions` and the files at the root.
"""
