"""One cell over a sequence: `unroll`, the function that most users call.

Start with `unroll`. `options` has the small tuples that group its arguments: `Sequences` (lengths, resets,
truncation, direction), `Noise` (zoneout, recurrent dropout, key) and `Loop` (how the loop runs).

May import: `jax_extensions`, `cells`, `time_loop`, `gradients`, `backends` and the files at the root.
"""
