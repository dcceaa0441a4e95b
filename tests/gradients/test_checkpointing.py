"""Segments change what is kept, and nothing else."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from comparison import CELLS, assert_close, grouped, loss, other_modes, random_problem, slow

import lstm_jax
from lstm_jax.gradients import checkpointing
from lstm_jax.gradients.checkpointing import residual_bytes, segment_length


# Where a sequence is cut depends on its length and direction alone; a cell brings what is kept of a step.
@pytest.mark.parametrize(
    ("name", "reverse", "batch", "counts"),
    [
        ("lstm", False, 2, (1, 3, 50)),
        ("rnn_tanh", True, None, (3,)),
        ("gru", True, 2, (3,)),
        slow("lstm", True, None, (1, 3, 50)),
        slow("gru", False, None, (3,)),
        slow("rnn_relu", False, 2, (3,)),
    ],
)
def test_the_gradient_is_unchanged(x64, name, reverse, batch, counts):
    problem = random_problem(name, 7, batch)

    @jax.jit
    def gradients(inputs):
        return [
            jax.value_and_grad(partial(loss, problem, **options, reverse=reverse))(inputs)
            for options in (
                {"gradient": "autodiff"},
                *({"gradient": "bptt", "segments": count} for count in counts),
            )
        ]

    whole, *cut = gradients(problem.inputs)
    for found in cut:
        assert_close(found, whole, 1e-12)


@pytest.mark.parametrize(
    ("name", "reverse"),
    [("rnn_tanh", True), slow("lstm", False), slow("lstm", True), slow("gru", False)],
)
def test_every_other_mode_is_unchanged(x64, name, reverse):
    problem = random_problem(name, 5, 2, input_size=2, hidden_size=2)

    by_segments = other_modes(problem, "bptt", segments=2, reverse=reverse)
    assert_close(by_segments, other_modes(problem, "autodiff", reverse=reverse), 1e-11)


def gradient_memory(cell, length, **options):
    """Bytes of the temporaries of a gradient, as XLA plans them."""
    params = cell.init(jax.random.key(0))
    xs = jnp.zeros((length, cell.input_size))

    def of_params(params):
        state, _ = lstm_jax.unroll(cell, params, xs, **grouped(**options))
        return jnp.sum(state.h)

    compiled = jax.jit(jax.grad(of_params)).lower(params).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", ["lstm", slow("gru"), slow("rnn_tanh")])
def test_memory_is_a_fraction(name):
    cell = CELLS[name](2, 64)
    autodiff, kept, cut = (
        gradient_memory(cell, 4096, **options)
        for options in ({"gradient": "autodiff"}, {"segments": None}, {"segments": 64})
    )
    assert kept < autodiff
    assert cut < kept / 5
    assert cut < autodiff / 8


class TestChoice:
    CELL = lstm_jax.lstm(3, 5)
    PARAMS = CELL.init(jax.random.key(0))

    def steps(self, count, length=100):
        xs, state0 = jnp.ones((length, 2, 3)), self.CELL.initial_state(2)
        return segment_length(count, self.CELL, self.PARAMS, len(xs), state0)

    def test_residuals_are_counted(self):
        xs, state0 = jnp.ones((100, 2, 3)), self.CELL.initial_state(2)
        # i, f, g, o, c_prev and h, each [2, 5] in float32, at each of 100 steps
        assert residual_bytes(self.CELL, self.PARAMS, len(xs), state0) == 100 * 6 * 10 * 4

    def test_auto_keeps_what_is_small_and_cuts_what_is_large(self, monkeypatch):
        assert self.steps("auto") == 100
        monkeypatch.setattr(checkpointing, "LARGE", 100 * 6 * 10 * 4)
        assert self.steps("auto") == 100
        monkeypatch.setattr(checkpointing, "LARGE", 100 * 6 * 10 * 4 - 1)
        assert self.steps("auto") == 10

    @pytest.mark.parametrize(
        ("count", "steps"), [(None, 100), (1, 100), (2, 50), (3, 34), (100, 1), (1000, 1)]
    )
    def test_a_number_of_segments(self, count, steps):
        assert self.steps(count) == steps

    @pytest.mark.parametrize("count", [0, -1, 1.5, True, "many"])
    def test_refusals(self, count, without_type_checker):
        with pytest.raises(ValueError, match="expected segments (to be|as) a positive integer"):
            lstm_jax.unroll(
                self.CELL, self.PARAMS, jnp.ones((4, 3)), backend=lstm_jax.Loop(segments=count)
            )

    @pytest.mark.parametrize("gradient", ["autodiff", "auto"])
    def test_refused_where_autodiff_differentiates(self, gradient):
        cell = self.CELL if gradient == "autodiff" else self.CELL._replace(rule=None)
        with pytest.raises(ValueError, match=r"Segments need the hand-derived rule.*segments=3"):
            lstm_jax.unroll(
                cell,
                self.PARAMS,
                jnp.ones((4, 3)),
                gradient=gradient,
                backend=lstm_jax.Loop(segments=3),
            )
        for harmless in ("auto", None):
            lstm_jax.unroll(
                cell,
                self.PARAMS,
                jnp.ones((4, 3)),
                gradient=gradient,
                backend=lstm_jax.Loop(segments=harmless),
            )


@pytest.mark.parametrize("name", ["lstm", slow("gru"), slow("rnn_tanh")])
def test_a_loss_on_a_part_of_the_outputs(x64, name):
    """Cotangents that are known to be zero are left out, not computed with."""
    problem = random_problem(name, 7, 2)

    def parts(**options):
        def of(read):
            return jax.grad(
                lambda inputs: read(*lstm_jax.unroll(problem.cell, *inputs, **grouped(**options)))
            )(problem.inputs)

        return [
            of(lambda state, hs: jnp.sum(jnp.sin(state.h))),
            of(lambda state, hs: jnp.sum(jnp.sin(state[-1]) * problem.state_weights[-1])),
            of(lambda state, hs: jnp.sum(jnp.sin(hs) * problem.hs_weights)),
        ]

    whole, cut, expected = jax.jit(
        lambda: [
            parts(**o) for o in ({"segments": None}, {"segments": 3}, {"gradient": "autodiff"})
        ]
    )()
    assert_close(whole, expected, 1e-12)
    assert_close(cut, expected, 1e-12)


def test_a_loss_on_the_final_state_keeps_nothing_of_the_sequence():
    cell = CELLS["lstm"](2, 64)
    one_array = 4096 * 64 * 4
    assert gradient_memory(cell, 4096, segments=64) < one_array
