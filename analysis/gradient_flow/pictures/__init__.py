"""Draw figures from recorded numbers. Only this room imports matplotlib.

Start with `comparison_figures`: the figures of `gradient-flow compare`. `watch_figures` draws a training run
that `flow_watch` recorded, `result_figures` one result into an axis. `saved_figures` writes figures as
PNG and SVG.

May import: `measurements`, the rooms above it and `results_folder`.
"""
