"""A trained network out of a file, looked at: ``gradient_flow.inspect``.

Start with `inspection`: what an inspection is, and how it is made. `network_of` takes the network out of a
source, `inputs` makes the sequences that drive it, `layer_arrays` measures one of its cells, and
`cell_in_steps` has the numbers of single units, forward and backward.

May import: `step_jacobians`, `measurements`, `verdicts`, `results_folder` and `lstm_jax`.
"""
