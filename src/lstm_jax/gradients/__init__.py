"""Back-propagation through time, derived by hand, and how it is checked.

Start with `bptt`: the forward, tangent and backward passes of one unrolled cell, as docs/derivation.md
derives them. `checkpointing` has the same passes in less memory. `custom_derivative` makes these passes the
derivative that `jax.grad` uses. `rtrl` computes the same gradient forward in time. `gradient_check` compares
a gradient with autodiff and with central differences.

May import: `jax_extensions`, `cells`, `time_loop` and the files at the root.
"""
