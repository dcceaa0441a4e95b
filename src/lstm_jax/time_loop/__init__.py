"""How any loop over time runs: its direction, its speed, its masks.

Start with `scan`: `jax.lax.scan` with the settings that suit the platform. `chunked_scan` is a scan whose
body sees several steps at once. `step_masks` says what happens to a state between two steps: padding, resets,
truncation, zoneout and recurrent dropout.

May import: `jax_extensions` and the files at the root.
"""
