"""Every pair of ``gradient`` and ``backend``: what it computes, and which are refused."""

import jax
import jax.numpy as jnp
import pytest
from comparison import assert_close, loss, random_problem
from kernel_emulation import emulate

import lstm_jax
from lstm_jax import Loop

FITTING = [
    (gradient, backend)
    for gradient in ("auto", "bptt", "autodiff")
    for backend in ("auto", "loop", Loop(), Loop(unroll=2))
]
SEGMENTS = Loop(segments=2)


def run(problem, **options):
    return lstm_jax.unroll(problem.cell, *problem.inputs, **options)


def test_every_pair_that_fits_computes_the_same(x64):
    problem = random_problem("lstm", 5, 2)
    pairs = [*FITTING, ("auto", SEGMENTS), ("bptt", SEGMENTS)]

    @jax.jit
    def gradients(inputs):
        def value(inputs, gradient, backend):
            _, hs = lstm_jax.unroll(problem.cell, *inputs, gradient=gradient, backend=backend)
            return jnp.sum(problem.hs_weights * jnp.sin(hs))

        return [jax.grad(value)(inputs, *pair) for pair in pairs]

    found = dict(zip(map(str, pairs), gradients(problem.inputs), strict=True))
    expected = found[str(("autodiff", "loop"))]
    assert_close(found, dict.fromkeys(found, expected), 1e-12)
    assert all(float(abs(leaf).max()) > 0 for leaf in jax.tree.leaves(expected))


@pytest.mark.parametrize(
    ("gradient", "by_hand"), [("auto", True), ("bptt", True), ("autodiff", False)]
)
@pytest.mark.parametrize("backend", ["auto", "loop", Loop()], ids=str)
def test_who_differentiates_is_what_was_asked(gradient, by_hand, backend):
    problem = random_problem("lstm", 3)
    text = str(
        jax.make_jaxpr(
            jax.grad(
                lambda inputs: lstm_jax.unroll(
                    problem.cell, *inputs, gradient=gradient, backend=backend
                )[1].sum()
            )
        )(problem.inputs)
    )
    assert ("linear_map" in text) == by_hand


@pytest.mark.parametrize("gradient", ["auto", "bptt"])
def test_the_kernel_takes_either_gradient_of_its_own(monkeypatch, gradient):
    emulate(monkeypatch)
    problem = random_problem("lstm", 3, 2)
    assert "rnn_fwd" in str(
        jax.make_jaxpr(lambda: run(problem, gradient=gradient, backend="cudnn"))()
    )


REFUSED = [
    (
        {"gradient": "autodiff", "backend": "cudnn"},
        'expected gradient="auto" or "bptt" with backend="cudnn"',
    ),
    ({"gradient": "autodiff", "backend": SEGMENTS}, "Segments need the hand-derived rule"),
    (
        {"gradient": "cudnn"},
        "Unknown gradient: expected one of 'auto', 'bptt', 'autodiff', got 'cudnn'",
    ),
    ({"backend": "bptt"}, "Unknown backend: expected one of 'auto', 'loop', 'cpu_kernel', 'cudnn'"),
    ({"backend": Loop(segments=0)}, "expected segments"),
    ({"backend": Loop(unroll=0)}, "unroll"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[str(o) for o, _ in REFUSED])
def test_pairs_that_do_not_fit_are_refused(without_type_checker, options, message):
    problem = random_problem("lstm", 3)
    with pytest.raises(ValueError, match=message):
        run(problem, **options)
    net = lstm_jax.stack(problem.cell)
    with pytest.raises(ValueError, match=message):
        lstm_jax.unroll_stack(net, lstm_jax.StackParams((problem.params,)), problem.xs, **options)


def test_a_cell_without_a_rule_has_autodiff_alone():
    problem = random_problem("lstm", 3)
    bare = problem._replace(cell=problem.cell._replace(rule=None))
    with pytest.raises(ValueError, match="no hand-derived rule"):
        run(bare, gradient="bptt")
    with pytest.raises(ValueError, match="Segments need the hand-derived rule"):
        run(bare, backend=SEGMENTS)
    assert_close(run(bare), run(problem), 1e-6)
    assert float(loss(bare, bare.inputs, "auto")) == pytest.approx(
        float(loss(problem, problem.inputs, "autodiff")), rel=1e-6
    )
