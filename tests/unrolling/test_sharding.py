"""The rule on several devices, under `jax.shard_map` and sharded `jit`: four simulated ones."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
import lstm_jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

assert jax.device_count() == 4
mesh = jax.make_mesh((4,), ("b",), axis_types=(AxisType.Auto,))
split = P(None, "b")
errors = {}
for make in (lstm_jax.lstm, lstm_jax.gru, lstm_jax.rnn):
    cell = make(3, 5)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (6, 8, 3))

    def loss(params, xs, gradient="auto", **options):
        _, hs = lstm_jax.unroll(cell, params, xs, gradient=gradient, **options)
        return jnp.mean(jnp.sin(hs))

    def local(params, xs):
        return jax.lax.pmean(loss(params, xs), "b")

    specs = dict(mesh=mesh, in_specs=(P(), split))
    outside = jax.grad(jax.shard_map(local, out_specs=P(), **specs), argnums=(0, 1))
    inside = jax.shard_map(jax.grad(local), out_specs=P(), **specs)
    in_four = lstm_jax.Loop(segments=4)
    cut = jax.shard_map(lambda *a: jax.lax.pmean(loss(*a, backend=in_four), "b"), out_specs=P(), **specs)
    in_segments = jax.grad(cut, argnums=(0, 1))
    spread = jax.device_put(xs, NamedSharding(mesh, split))
    expected = jax.jit(jax.grad(lambda *a: loss(*a, gradient="autodiff"), argnums=(0, 1)))(params, xs)
    got = {"grad of shard_map": (jax.jit(outside)(params, xs), expected)}
    if cell.kind == "lstm":
        got |= {
            "shard_map of grad": (jax.jit(inside)(params, xs), expected[0]),
            "jit, sharded": (jax.jit(jax.grad(loss))(params, spread), expected[0]),
            "segments": (jax.jit(in_segments)(params, xs), expected),
        }
    for name, (value, reference) in got.items():
        pairs = zip(jax.tree.leaves(value), jax.tree.leaves(reference), strict=True)
        errors[f"{cell.name}: {name}"] = max(
            float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(b))) for a, b in pairs
        )
print(json.dumps(errors))
"""


@pytest.mark.slow
def test_four_devices_give_one_devices_gradient():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    errors = json.loads(run.stdout)
    assert len(errors) == 6
    assert max(errors.values()) < 1e-6, errors
