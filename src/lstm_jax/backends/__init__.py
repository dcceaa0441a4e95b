"""Backends of an unrolled network: the loop in XLA, or a kernel that runs all steps at once.

Start with `choice`: what ``backend=`` stands for. `loop` is the loop in XLA, with the
hand-derived rule or with autodiff. The folder `cudnn` is NVIDIA's kernel for the standard LSTM. A new backend
is one more folder and one more entry in `choice`.

May import: `jax_extensions`, `cells`, `time_loop`, `gradients` and the files at the root.
"""
