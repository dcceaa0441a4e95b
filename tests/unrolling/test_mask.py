"""Any mask over steps, against a loop that runs the steps of each sample alone, one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, random_problem
from slow_cases import slow_but

import lstm_jax
from lstm_jax import Loop, Sequences
from lstm_jax.backends.cudnn.conditions import unsupported_mask
from lstm_jax.time_loop.step_masks import step_masks

T, B = 9, 3
MASK = np.array(
    [
        [0, 1, 1, 0, 0, 1, 1, 1, 0],  # padding on both sides and a gap
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 1, 0, 1, 0, 1, 0],
    ],
    bool,
).T


def by_sample(cell, params, xs, state0, mask, *, reverse=False, outside="zeros"):
    """Only the steps of the mask, sample by sample, in plain Python."""
    ends, outputs = [], []
    for b in range(xs.shape[1]):
        state = jax.tree.map(lambda leaf, b=b: leaf[b], state0)
        out = {}
        for t in range(len(xs))[:: -1 if reverse else 1]:
            if mask[t, b]:
                state, _ = cell.step(params, state, xs[t, b])
            shown = mask[t, b] or outside == "last"
            out[t] = state.h if shown else jnp.zeros_like(state.h)
        ends.append(state)
        outputs.append(jnp.stack([out[t] for t in range(len(xs))]))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *ends), jnp.stack(outputs, axis=1)


def weighted(outcome, seed=3):
    state, hs = outcome
    rng = np.random.default_rng(seed)
    leaves = [*jax.tree.leaves(state), hs]
    return sum(jnp.sum(leaf * rng.normal(size=leaf.shape)) for leaf in leaves)


def close(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(float(jnp.max(jnp.abs(other))), 1e-300)
        assert float(jnp.max(jnp.abs(one - other))) <= 1e-12 * scale


@pytest.mark.parametrize(
    ("reverse", "outside"),
    slow_but(
        [(False, "zeros"), (False, "last"), (True, "zeros"), (True, "last")], (False, "zeros")
    ),
)
@pytest.mark.parametrize("gradient", slow_but(["auto", "autodiff"], "auto"))
@pytest.mark.parametrize("name", slow_but(sorted(CELLS), "lstm"))
def test_values_and_derivatives(name, gradient, reverse, outside, x64):
    problem = random_problem(name, T, B, dtype=jnp.float64)
    cell, (params, xs, state0) = problem.cell, problem.inputs

    def ours(params, xs, state0):
        sequences = Sequences(mask=jnp.asarray(MASK), reverse=reverse, outside=outside)
        return lstm_jax.unroll(cell, params, xs, state0, sequences=sequences, gradient=gradient)

    def truth(params, xs, state0):
        return by_sample(cell, params, xs, state0, MASK, reverse=reverse, outside=outside)

    close(ours(params, xs, state0), truth(params, xs, state0))
    arguments = (0, 1, 2)
    found = jax.jit(jax.grad(lambda *a: weighted(ours(*a)), arguments))(params, xs, state0)
    expected = jax.jit(jax.grad(lambda *a: weighted(truth(*a)), arguments))(params, xs, state0)
    close(found, expected)
    # What is masked does not matter, NaN included; and its gradient is 0.
    bad = jnp.where(jnp.asarray(MASK)[..., None], xs, jnp.nan)
    close(ours(params, bad, state0), truth(params, xs, state0))
    of_bad = jax.jit(jax.grad(lambda *a: weighted(ours(*a)), arguments))(params, bad, state0)
    close(of_bad, expected)
    assert not np.asarray(of_bad[1])[~MASK].any()
    dots = jax.tree.map(lambda leaf: jnp.cos(3 * leaf), (params, xs, state0))
    close(
        jax.jvp(ours, (params, xs, state0), dots)[1], jax.jvp(truth, (params, xs, state0), dots)[1]
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", [Loop(segments=3), Loop(unroll=4)])
def test_other_loops(backend, x64):
    problem = random_problem("lstm", T, B, dtype=jnp.float64)
    cell, inputs = problem.cell, problem.inputs
    sequences = Sequences(mask=jnp.asarray(MASK))

    def of(**options):
        return jax.jit(
            jax.grad(
                lambda *a: weighted(lstm_jax.unroll(cell, *a, sequences=sequences, **options)),
                (0, 1, 2),
            )
        )(*inputs)

    close(of(backend=backend), of())


def test_a_mask_of_lengths_is_those_lengths(x64):
    problem = random_problem("gru", T, B, dtype=jnp.float64)
    lengths = jnp.asarray([4, 9, 1])
    mask = jnp.arange(T)[:, None] < lengths[None]
    for reverse in (False, True):
        by_lengths, by_mask = (
            lstm_jax.unroll(problem.cell, *problem.inputs, sequences=sequences)
            for sequences in (
                Sequences(lengths=lengths, reverse=reverse),
                Sequences(mask=mask, reverse=reverse),
            )
        )
        close(by_mask, by_lengths)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_the_last_output_stays_past_a_sequences_end(reverse, x64):
    problem = random_problem("lstm", T, B, dtype=jnp.float64)
    lengths = jnp.asarray([4, 8, 1])
    zeros, last = (
        lstm_jax.unroll(
            problem.cell,
            *problem.inputs,
            sequences=Sequences(lengths=lengths, reverse=reverse, outside=outside),
        )
        for outside in ("zeros", "last")
    )
    close(last[0], zeros[0])
    for b, length in enumerate(lengths):
        close(last[1][:length, b], zeros[1][:length, b])
        assert not np.asarray(zeros[1][length:, b]).any()
        final = zeros[0].h[b]
        close(last[1][length:, b], jnp.broadcast_to(final, last[1][length:, b].shape))


@pytest.mark.slow
def test_a_stack_in_both_directions(x64):
    cell = lstm_jax.lstm(3, 4)
    net = lstm_jax.stack(lstm_jax.bidirectional(cell), lstm_jax.gru(8, 5), output_size=2)
    params = net.init(jax.random.key(0), jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (T, B, 3), jnp.float64)
    mask = jnp.asarray(MASK)
    states, ys = lstm_jax.unroll_stack(net, params, xs, sequences=Sequences(mask=mask))
    zeros = cell.initial_state(B, jnp.float64)
    first = params.layers[0]
    there = by_sample(cell, first.forward, xs, zeros, MASK)
    back = by_sample(cell, first.backward, xs, zeros, MASK, reverse=True)
    hs = jnp.concatenate([there[1], back[1]], axis=-1)
    top = by_sample(
        net.layers[1], params.layers[1], hs, net.layers[1].initial_state(B, jnp.float64), MASK
    )
    close(states, (lstm_jax.Both(there[0], back[0]), top[0]))
    projected = top[1] @ params.w_y + jnp.broadcast_to(params.b_y, (T, B, 2))
    close(ys, jnp.where(mask[..., None], projected, jnp.zeros_like(projected)))


def test_refusals(without_type_checker):
    problem = random_problem("lstm", T, B)

    def run(**given):
        return lstm_jax.unroll(problem.cell, *problem.inputs, sequences=Sequences(**given))

    mask = jnp.asarray(MASK)
    with pytest.raises(ValueError, match="expected lengths or a mask, got both"):
        run(mask=mask, lengths=jnp.asarray([1, 2, 3]))
    with pytest.raises(lstm_jax.ShapeError, match=r"expected mask \[9, 3\] beside xs"):
        run(mask=mask.T)
    with pytest.raises(TypeError, match="expected mask as booleans, got float32"):
        run(mask=mask.astype(jnp.float32))
    with pytest.raises(
        ValueError, match="Unknown outside: expected one of 'zeros', 'last', got 'no'"
    ):
        run(outside="no")
    masks = step_masks(problem.xs, None, mask=mask)
    assert unsupported_mask(masks) == "a mask, or outside='last'"
    with pytest.raises(ValueError, match="mask and noise with a cell, got them with a plain step"):
        lstm_jax.unroll(problem.cell.step, *problem.inputs, sequences=Sequences(mask=mask))
