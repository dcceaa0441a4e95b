"""One cell over a sequence: `unroll`, the function that most users call.

Start with `unroll`. Its arguments come in small tuples: `Sequences` (lengths, resets, truncation, direction)
and `Noise` (zoneout, recurrent dropout, key) from `time_loop`, `Loop` (settings of the loop) from `backends`.

May import: `jax_extensions`, `cells`, `time_loop`, `gradients`, `backends` and the files at the root.
"""
