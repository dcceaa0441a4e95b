"""``python -m benchmarks.device_counts``: what a training step keeps and sends on 1 to 256 devices.

The step of a word model is compiled for so many simulated devices, and the figures are the compiled
program's own: bytes on each device, and bytes that each sends in a step. Nothing is run. The partitioner is
the one of GPU and TPU; what XLA fuses and keeps besides is that of a CPU.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from functools import partial
from typing import Any

MESHES = ((1, 1), (4, 1), (16, 1), (64, 1), (256, 1), (64, 4), (32, 8), (8, 32))
"""Devices on the axes "data" and "model"."""
VOCABULARY, UNITS, LAYERS, LENGTH, ROWS = 10_000, 1024, 2, 35, 16
"""A word model; so many rows of a batch for each device of the data axis."""
MEGABYTE = 2**20


def figures(data: int, model: int) -> dict[str, Any]:
    """The figures of one mesh, in a process that has as many devices."""
    import jax
    import numpy as np
    import optax

    import lstm_jax
    from benchmarks.collectives import collectives
    from lstm_jax import language, training
    from lstm_jax.array_types import shapes_of
    from lstm_jax.training.devices import in_context
    from lstm_jax.training.placement import state_shardings
    from lstm_jax.training.sample_axes import spread

    rows = ROWS * data
    net = language.language_model(
        lstm_jax.stack(*[lstm_jax.lstm(UNITS, UNITS)] * LAYERS), VOCABULARY
    )

    def batch(codes: Any, step: Any, key: Any) -> language.Batch:
        return language.contiguous(codes, step, rows, LENGTH)

    problem = language.language_problem(
        net, batch, rows, init=lambda key: training.split_units(net.init(key))
    )
    optimizer = optax.adam(1e-3)
    mesh = training.device_mesh(model) if model > 1 else training.data_mesh()
    start = partial(training.init_state, problem, optimizer)
    seed = (np.uint32(0),)
    with in_context(mesh):
        shardings = state_shardings(start, seed, problem, optimizer, mesh, False)
        state = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes_of(start, *seed),
            shardings,
        )
        tokens = rows * (3 * LENGTH + 1)
        codes = jax.ShapeDtypeStruct((tokens,), np.int32, sharding=spread(mesh, None))
        step = training.train_step(problem, optimizer, mesh=mesh)
        outputs = (shardings, spread(mesh, None))
        program = (
            jax.jit(step, donate_argnums=0, out_shardings=outputs).lower(state, codes).compile()
        )
    memory: Any = program.memory_analysis()
    moved = collectives(program.as_text() or "")
    often = [one for one in moved if one.times >= LENGTH]
    return {
        "state": memory.argument_size_in_bytes,
        "workspace": memory.temp_size_in_bytes,
        "sent": sum(one.sent for one in moved),
        "in_loops": sum(one.sent for one in often),
        "kinds": Counter(f"{one.kind} × {one.times}" for one in moved),
    }


def main() -> int:
    """Print a line for each mesh; each is compiled in a process of its own."""
    if len(sys.argv) == 3:
        print(json.dumps(figures(int(sys.argv[1]), int(sys.argv[2]))))
        return 0
    print(
        f"Word model, {LAYERS} layers of {UNITS} units, {VOCABULARY:,} words, Adam, {ROWS} rows of {LENGTH} "
        "tokens for each device of the data axis. MB on each device, MB that each sends in a step.\n"
    )
    print(
        "| devices | data × model | rows | state | workspace | sent | of it in the loop over time |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for data, model in MESHES:
        flags = f"--xla_force_host_platform_device_count={data * model}"
        command = [sys.executable, "-m", "benchmarks.device_counts", str(data), str(model)]
        found = subprocess.run(
            command,
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        told = json.loads(found.stdout)
        shown = " | ".join(
            f"{told[name] / MEGABYTE:.1f}" for name in ("state", "workspace", "sent", "in_loops")
        )
        print(f"| {data * model} | {data} × {model} | {ROWS * data} | {shown} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
