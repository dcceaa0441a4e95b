"""Units split over eight simulated devices: the numbers of one device, and one collective a step."""

import os
import subprocess
import sys

import pytest

SCRIPT = r"""
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import lstm_jax
from lstm_jax import language
from lstm_jax.backends.unit_blocks import split_units

jax.config.update("jax_enable_x64", True)
assert jax.device_count() == 8
mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
MOVES = r"= (\S+|\(.*?\)) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\("


def collectives(text):
    "How many there are in each computation that is not the program itself, so in each body of a loop."
    counts, inside = {}, None
    for line in text.splitlines():
        if head := re.match(r"^(ENTRY )?%?([\w.\-]+) .*\{$", line):
            inside = None if head[1] else head[2]
        if inside and re.search(MOVES, line):
            counts[inside] = counts.get(inside, 0) + 1
    return sorted(counts.values())


def compare(name, loss, params, xs, counted=None, mesh=mesh):
    expected = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, xs)
    with jax.set_mesh(mesh):
        placed = jax.jit(split_units)(params)
        spread = jax.device_put(xs, NamedSharding(mesh, P(None, "data")))
        program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(placed, spread).compile()
        found = program(placed, spread)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, np.asarray(b), rtol=1e-12, atol=1e-12), expected, found
    )
    if counted is not None:
        moved = collectives(program.as_text())
        assert moved == counted, (name, moved)
    print(name, "agrees")


# Samples over all devices: in the loops nothing moves, and each sums up its own samples. 2000 samples make
# several chunks of the sums over time.
wide = jax.random.normal(jax.random.key(1), (12, 2000, 5))
for name, options in {"samples": {}, "in segments": dict(backend=lstm_jax.Loop(segments=3))}.items():
    cell = lstm_jax.lstm(5, 8)

    def loss(params, xs):
        state, hs = lstm_jax.unroll(cell, params, xs, **options)
        return (hs**2).mean() + state.h.mean()

    only = Mesh(np.array(jax.devices()), ("data",))
    compare(name, loss, cell.init(jax.random.key(0)), wide, [], only)
xs = jax.random.normal(jax.random.key(1), (12, 4, 5))
lengths = jnp.array([12, 3, 7, 1])
key = jax.random.key(2)
VARIANTS = {
    "plain": {},
    "masked": dict(
        sequences=lstm_jax.Sequences(lengths=lengths, reverse=True),
        noise=lstm_jax.Noise(zoneout=0.3, recurrent_dropout=0.2, key=key),
    ),
    "segments": dict(backend=lstm_jax.Loop(segments=3)),
    "autodiff": dict(gradient="autodiff"),
}
for kind in ("lstm", "gru", "rnn"):
    cell = getattr(lstm_jax, kind)(5, 8)
    params = cell.init(jax.random.key(0))
    for name, options in VARIANTS.items():
        if kind == "gru" and name == "masked":
            options = options | {"noise": lstm_jax.Noise(zoneout=0.3, key=key)}

        def loss(params, xs):
            state, hs = lstm_jax.unroll(cell, params, xs, **options)
            return (hs**2).sum() + state.h.sum()

        # Forward the gathered h, backward the sum of δz W_hᵀ; nothing moves in the sums over time.
        compare(f"{kind} {name}", loss, params, xs, [1, 1] if name == "plain" else None)
        if "quick" in sys.argv:
            sys.exit()

odd = lstm_jax.lstm(5, 6)
compare("six units on four devices", lambda p, xs: lstm_jax.unroll(odd, p, xs)[1].sum(), odd.init(key), xs)
variant = lstm_jax.lstm(5, 8, peepholes=True, layer_norm=True)
compare("a variant", lambda p, xs: lstm_jax.unroll(variant, p, xs)[1].sum(), variant.init(key), xs)
compare("one sample", lambda p, xs: lstm_jax.unroll(odd, p, xs[:, 0])[1].sum(), odd.init(key), xs)
net = lstm_jax.stack(lstm_jax.bidirectional(lstm_jax.gru(5, 8)), lstm_jax.lstm(16, 8), output_size=3)
compare("a stack", lambda p, xs: lstm_jax.unroll_stack(net, p, xs)[1].sum(), net.init(key), xs)
cell = lstm_jax.lstm(5, 8)
with jax.set_mesh(mesh):
    params = jax.jit(lambda key: split_units(cell.init(key)))(key)
    assert params.w_h.sharding.spec == P(None, "model") and params.b.sharding.spec == P("model")
    batched = jax.jit(jax.vmap(lambda p, xs: lstm_jax.unroll(cell, p, xs)[1], in_axes=(None, 0)))
    hs = batched(params, xs[None])
np.testing.assert_allclose(hs[0], lstm_jax.unroll(cell, cell.init(key), xs)[1], rtol=1e-12)
print("vmap agrees")
"""


@pytest.mark.parametrize(
    ("extent", "compared"), [("quick", 3), pytest.param("all", 19, marks=pytest.mark.slow)]
)
def test_the_numbers_of_one_device_and_one_collective_a_step(extent, compared):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, extent],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("agrees") == compared
