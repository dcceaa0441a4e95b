"""The unrolled cell under every transformation, by hand against autodiff, and what it promises."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, assert_close, grouped, loss, random_like, random_problem, slow, weigh
from jax import export

import lstm_jax
from lstm_jax.jax_extensions import linear_map

GATED = ("lstm", "gru", "rnn_tanh")


def batched(problem, size):
    """The inputs with a leading axis of ``size`` on every leaf, no slice like another."""
    scales = jnp.linspace(0.5, 1.0, size)
    return jax.tree.map(
        lambda leaf: scales.reshape(-1, *[1] * leaf.ndim) * leaf[None], problem.inputs
    )


def tangents(problem, seed=1):
    return random_like(np.random.default_rng(seed), problem.inputs)


def hessian_vector(f, problem):
    """Forward over reverse."""
    return jax.jvp(jax.grad(f), (problem.inputs,), (tangents(problem),))


def gradient_of_jvp(f, problem):
    """Reverse over forward."""

    def directional(inputs):
        return jax.jvp(f, (inputs,), (tangents(problem),))[1]

    return jax.grad(directional)(problem.inputs)


def in_state0(f, problem):
    """The function of s_0 alone: the other inputs carry no derivative."""
    return lambda state0: f(problem.inputs._replace(state0=state0))


TRANSFORMATIONS = {
    "value": lambda f, p: f(p.inputs),
    "vmap": lambda f, p: jax.vmap(f)(batched(p, 2)),
    "grad": lambda f, p: jax.grad(f)(p.inputs),
    "value_and_grad": lambda f, p: jax.value_and_grad(f)(p.inputs),
    "grad of jit": lambda f, p: jax.grad(jax.jit(f))(p.inputs),
    "vmap of grad": lambda f, p: jax.vmap(jax.grad(f))(batched(p, 2)),
    "grad of vmap": lambda f, p: jax.grad(lambda u: jnp.sum(jax.vmap(f)(u) ** 2))(batched(p, 2)),
    "vmap over xs alone": lambda f, p: jax.vmap(
        jax.grad(lambda xs, params: f(p.inputs._replace(params=params, xs=xs)), argnums=(0, 1)),
        in_axes=(0, None),
    )(batched(p, 2).xs, p.params),
    "vmap over params alone": lambda f, p: jax.vmap(
        jax.grad(lambda params, xs: f(p.inputs._replace(params=params, xs=xs)), argnums=(0, 1)),
        in_axes=(0, None),
    )(batched(p, 2).params, p.xs),
    "jvp": lambda f, p: jax.jvp(f, (p.inputs,), (tangents(p),)),
    "linearize": lambda f, p: jax.linearize(f, p.inputs)[1](tangents(p)),
    "linear_transpose": lambda f, p: jax.linear_transpose(jax.linearize(f, p.inputs)[1], p.inputs)(
        jnp.ones(())
    ),
    "jacfwd": lambda f, p: jax.jacfwd(f)(p.inputs),
    "jacrev": lambda f, p: jax.jacrev(f)(p.inputs),
    "checkpoint": lambda f, p: jax.grad(jax.checkpoint(f))(p.inputs),
    "jvp of grad": hessian_vector,
    "grad of jvp": gradient_of_jvp,
    "jacfwd in s_0": lambda f, p: jax.jacfwd(in_state0(f, p))(p.state0),
    "vmap of jvp of grad": lambda f, p: jax.vmap(
        lambda u: jax.jvp(jax.grad(f), (u,), (tangents(p),))
    )(batched(p, 2)),
}

SECOND_ORDER = {
    "jacfwd of jacrev": lambda f: jax.jacfwd(jax.jacrev(f)),
    "jacrev of jacfwd": lambda f: jax.jacrev(jax.jacfwd(f)),
    "jacrev of jacrev": lambda f: jax.jacrev(jax.jacrev(f)),
    "jacfwd of jacfwd": lambda f: jax.jacfwd(jax.jacfwd(f)),
}


def both_ways(evaluate):
    """``evaluate(gradient)`` by hand and by autodiff, in one program."""
    return jax.jit(lambda: (evaluate("bptt"), evaluate("autodiff")))()


# What depends on the cell's own rule, and what asks more of the loop's derivative as a function.
BY_RULE = ("value", "grad", "jvp", "vmap of grad", "grad of vmap", "jvp of grad")
QUICK = ("grad of vmap", "linear_transpose", "checkpoint", "grad of jvp", "vmap of jvp of grad")


# A difference is reported by the name of its transformation.
@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("lstm", QUICK),
        ("gru", ("jvp", "vmap of grad")),
        slow("lstm", tuple(TRANSFORMATIONS)),
        slow("gru", BY_RULE),
        slow("rnn_tanh", BY_RULE),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_transformations_agree(x64, name, chosen):
    problem = random_problem(name, 3, input_size=2, hidden_size=3)
    by_hand, autodiff = both_ways(
        lambda gradient: {
            name: TRANSFORMATIONS[name](partial(loss, problem, gradient=gradient), problem)
            for name in chosen
        }
    )
    assert_close(by_hand, autodiff, 1e-12)


@pytest.mark.parametrize(
    "transformation", ["grad", *map(slow, ("value", "grad of jit", "jvp", "checkpoint"))]
)
def test_outside_of_jit_too(x64, transformation):
    problem = random_problem("lstm", 3, input_size=2, hidden_size=3)
    by_hand, autodiff = (
        TRANSFORMATIONS[transformation](partial(loss, problem, gradient=gradient), problem)
        for gradient in ("bptt", "autodiff")
    )
    assert_close(by_hand, autodiff, 1e-12)


@pytest.mark.parametrize(
    ("name", "orders"),
    [
        ("rnn_tanh", tuple(SECOND_ORDER)),
        slow("lstm", tuple(SECOND_ORDER)),
        slow("gru", ("jacfwd of jacrev",)),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_second_derivatives_agree(x64, name, orders):
    """In whatever order by hand, against one Hessian by autodiff."""
    problem = random_problem(name, 2, input_size=1, hidden_size=2)

    @jax.jit
    def hessians(inputs):
        by_hand = partial(loss, problem, gradient="bptt")
        autodiff = partial(loss, problem, gradient="autodiff")
        return {order: SECOND_ORDER[order](by_hand)(inputs) for order in orders}, jax.hessian(
            autodiff
        )(inputs)

    by_hand, autodiff = hessians(problem.inputs)
    assert_close(by_hand, dict.fromkeys(orders, autodiff), 1e-12)


@pytest.mark.slow
def test_third_derivatives_agree(x64):
    problem = random_problem("rnn_tanh", 2, input_size=1, hidden_size=2)

    def third(gradient):
        of_state0 = in_state0(partial(loss, problem, gradient=gradient), problem)
        return jax.jacrev(jax.jacfwd(jax.jacrev(of_state0)))(problem.state0)

    assert_close(*both_ways(third), 1e-11)


@pytest.mark.parametrize("name", ["rnn_tanh", slow("lstm"), slow("gru")])
def test_jacobians_of_the_outputs_agree(x64, name):
    problem = random_problem(name, 4, 2, input_size=2, hidden_size=3)

    @jax.jit
    def jacobians(inputs):
        def run(inputs, gradient="bptt"):
            return lstm_jax.unroll(problem.cell, *inputs, **grouped(gradient=gradient))

        autodiff = jax.jacrev(partial(run, gradient="autodiff"))(inputs)
        return [jax.jacfwd(run)(inputs), jax.jacrev(run)(inputs)], [autodiff, autodiff]

    assert_close(*jacobians(problem.inputs), 1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_equals_stepping_in_a_loop(x64, name, reverse):
    cell, params, xs, state, *_ = problem = random_problem(name, 5, 2)
    outs = [None] * 5
    for t in reversed(range(5)) if reverse else range(5):
        state, outs[t] = cell.step(params, state, xs[t])
    unrolled = both_ways(
        lambda gradient: lstm_jax.unroll(
            cell, *problem.inputs, **grouped(reverse=reverse, gradient=gradient)
        )
    )
    expected = state, np.stack(outs)
    assert_close(unrolled, (expected, expected), 1e-14)


def test_reverse_is_a_flip_of_time(x64):
    problem = random_problem("lstm", 6, 2)
    flipped = problem._replace(xs=problem.xs[::-1], hs_weights=problem.hs_weights[::-1])
    grad = jax.value_and_grad(loss, argnums=1)

    def turned_and_flipped(gradient):
        value, of_flipped = grad(flipped, flipped.inputs, gradient)
        of_flipped = of_flipped._replace(xs=of_flipped.xs[::-1])
        return grad(problem, problem.inputs, gradient, reverse=True), (value, of_flipped)

    for ours, expected in both_ways(turned_and_flipped):
        assert_close(ours, expected, 1e-13)


@pytest.mark.parametrize(("gradient", "steps"), [("bptt", (2, 100)), slow("autodiff", (3, 7))])
def test_steps_per_iteration_change_nothing(x64, gradient, steps):
    problem = random_problem("gru", 7, 2)

    @jax.jit
    def by_steps():
        grad = jax.value_and_grad(loss, argnums=1)
        direct = partial(lstm_jax.bptt, problem.cell, *problem.inputs, d_hs=problem.hs_weights)
        several = [
            (grad(problem, problem.inputs, gradient, unroll=n), direct(unroll=n)) for n in steps
        ]
        return several, (grad(problem, problem.inputs, gradient), direct())

    several, one = by_steps()
    for found in several:
        assert_close(found, one, 1e-13)


@pytest.mark.parametrize(("name", "batch"), [("lstm", 3), slow("gru", None), ("rnn_tanh", None)])
def test_a_missing_starting_state_is_zeros(x64, name, batch):
    cell, params, xs, state0, *_ = random_problem(name, 4, batch)
    zeros = jax.tree.map(jnp.zeros_like, state0)

    @jax.jit
    def runs(state0):
        d_hs = jnp.ones((4, *([] if batch is None else [batch]), 5))
        return lstm_jax.bptt(cell, params, xs, state0, d_hs=d_hs), [
            lstm_jax.unroll(cell, params, xs, state0, **grouped(gradient=gradient))
            for gradient in ("auto", "bptt", "autodiff")
        ]

    assert_close(runs(None), runs(zeros), 0.0)


@pytest.mark.parametrize("name", ["lstm", slow("gru"), slow("rnn_tanh")])
def test_more_batch_axes_by_vmap(x64, name):
    problem = random_problem(name, 3, 2)
    stacked = batched(problem, 4)
    axes = lstm_jax.Gradients(None, 0, 0)
    run = partial(lstm_jax.unroll, problem.cell)
    several = jax.jit(jax.vmap(run, in_axes=tuple(axes)))(
        problem.params, stacked.xs, stacked.state0
    )
    one = jax.jit(run)
    for n in range(4):
        slices = jax.tree.map(lambda leaf, n=n: leaf[n], (stacked.xs, stacked.state0))
        alone = one(problem.params, *slices)
        assert_close(jax.tree.map(lambda leaf, n=n: leaf[n], several), alone, 1e-14)

    def total(gradient):
        def value(params, xs, state0):
            inputs = lstm_jax.Gradients(params, xs, state0)
            return loss(problem, inputs, gradient)

        def summed(inputs):
            return jnp.sum(jax.vmap(value, in_axes=tuple(axes))(*inputs))

        return jax.grad(summed)(stacked._replace(params=problem.params))

    assert_close(*both_ways(total), 1e-12)


def test_only_some_inputs_differentiated(x64):
    problem = random_problem("lstm", 4, 2)

    @jax.jit
    def gradients(inputs):
        alone = [
            jax.grad(
                lambda part, field=field: loss(problem, inputs._replace(**{field: part}), "bptt")
            )(getattr(inputs, field))
            for field in inputs._fields
        ]
        return lstm_jax.Gradients(*alone), jax.grad(loss, argnums=1)(problem, inputs, "bptt")

    assert_close(*gradients(problem.inputs), 1e-14)


class TestPlainStep:
    def test_any_function_of_any_pytrees(self, x64):
        def step(params, state, x):
            total, count = state["total"] + params * x["a"] @ x["b"], state["count"] + 1.0
            return {"total": total, "count": count}, (total / count, x["a"])

        xs = {"a": jnp.arange(8.0).reshape(4, 2), "b": jnp.ones((4, 2))}
        state0 = {"total": jnp.zeros(()), "count": jnp.zeros(())}
        state, (means, echo) = lstm_jax.unroll(step, jnp.asarray(2.0), xs, state0)
        np.testing.assert_allclose(state["total"], 2 * 28.0)
        np.testing.assert_allclose(means, 2 * np.cumsum([1.0, 5.0, 9.0, 13.0]) / [1, 2, 3, 4])
        np.testing.assert_array_equal(echo, xs["a"])

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_cells_step_runs_as_a_plain_one(self, x64, reverse):
        problem = random_problem("gru", 5, 2)
        options = {"reverse": reverse, "unroll": 2}
        plain = lstm_jax.unroll(problem.cell.step, *problem.inputs, **grouped(**options))
        assert_close(
            plain, lstm_jax.unroll(problem.cell, *problem.inputs, **grouped(**options)), 1e-14
        )

    def test_auto_is_autodiff(self, x64):
        problem = random_problem("rnn_tanh", 4)
        of_step = problem._replace(cell=problem.cell.step)
        grad = jax.grad(loss, argnums=1)
        assert_close(
            grad(of_step, of_step.inputs, "auto"), grad(problem, problem.inputs, "bptt"), 1e-12
        )


class TestDtype:
    @pytest.mark.parametrize(
        ("name", "gradient"),
        [
            ("lstm", "bptt"),
            slow("gru", "bptt"),
            slow("rnn_tanh", "bptt"),
            slow("rnn_relu", "autodiff"),
            slow("lstm", "autodiff"),
        ],
    )
    def test_bfloat16_follows_the_parameters(self, name, gradient):
        problem = random_problem(name, 6, 2, dtype=jnp.bfloat16)
        run = partial(lstm_jax.unroll, problem.cell, **grouped(gradient=gradient))
        state, hs = jax.jit(run)(*problem.inputs[:2])
        gradients = jax.jit(jax.grad(partial(loss, problem, gradient=gradient)))(problem.inputs)
        assert {x.dtype for x in jax.tree.leaves((state, hs, gradients))} == {
            jnp.dtype(jnp.bfloat16)
        }
        wide = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float32) if hasattr(leaf, "astype") else leaf,
            problem._replace(cell=None),
        )._replace(cell=problem.cell)
        expected = jax.jit(jax.grad(partial(loss, wide, gradient=gradient)))(wide.inputs)
        narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradients)
        assert_close(narrow, expected, 0.1)

    def test_float32_parameters_in_a_float64_session(self, x64):
        problem = random_problem("lstm", 4, 2, dtype=jnp.float32)
        outputs = lstm_jax.unroll(problem.cell, problem.params, problem.xs)
        gradients = jax.grad(loss, argnums=1)(problem, problem.inputs, "bptt")
        assert {x.dtype for x in jax.tree.leaves((outputs, gradients))} == {jnp.dtype("float32")}


class TestCompilation:
    def test_a_second_call_does_not_retrace(self):
        problem = random_problem("lstm", 4, 2)
        traces = []

        def counting(params, state, x):
            traces.append(x.shape)
            return problem.cell.rule.forward_step(params, state, x)

        cell = problem.cell._replace(rule=problem.cell.rule._replace(forward_step=counting))
        counted = problem._replace(cell=cell)
        grad = jax.jit(jax.grad(lambda inputs: loss(counted, inputs, "bptt")))
        grad(problem.inputs)
        once = len(traces)
        assert once > 0
        grad(jax.tree.map(lambda leaf: 2 * leaf, problem.inputs))
        assert len(traces) == once
        shorter = lstm_jax.Gradients(
            problem.params, problem.xs[:, :1], jax.tree.map(lambda s: s[:1], problem.state0)
        )
        jax.grad(lambda inputs: jnp.sum(lstm_jax.unroll(cell, *inputs)[1]))(shorter)
        assert len(traces) > once

    def test_the_cell_is_a_static_argument(self):
        traces = []

        @partial(jax.jit, static_argnums=0)
        def run(cell, params, xs):
            traces.append(cell)
            return lstm_jax.unroll(cell, params, xs)

        xs = jnp.ones((4, 2, 3))
        for seed in range(3):
            cell = lstm_jax.lstm(3, 5, forget_bias=0.5)
            params = cell.init(jax.random.key(seed))
            assert_close(run(cell, params, xs), lstm_jax.unroll(cell, params, xs), 1e-6)
        assert len(traces) == 1
        other = lstm_jax.gru(3, 5)
        run(other, other.init(jax.random.key(0)), xs)
        assert len(traces) == 2

    @pytest.mark.parametrize("name", CELLS)
    def test_equal_arguments_give_the_identical_cell(self, name):
        assert CELLS[name](3, 5) is CELLS[name](3, 5)
        assert CELLS[name](3, 5) is not CELLS[name](3, 6)
        assert hash(CELLS[name](3, 5)) == hash(CELLS[name](3, 5))

    def test_equal_initializers_give_the_identical_cell(self, without_type_checker):
        def make():
            return lstm_jax.lstm(
                3, 5, forget_bias=lstm_jax.chrono(50), w_h_init=lstm_jax.orthogonal(0.9)
            )

        assert make() is make()
        assert lstm_jax.lstm(np.int64(3), np.int64(5)) is lstm_jax.lstm(3, 5)

    @pytest.mark.parametrize("name", ["lstm", slow("gru"), slow("rnn_tanh")])
    def test_lowers_for_every_platform(self, name):
        problem = random_problem(name, 4, 2)

        def run(inputs):
            return lstm_jax.unroll(problem.cell, *inputs)

        def gradient(inputs):
            return jax.grad(lambda u: loss(problem, u, "bptt"))(inputs)

        for function in (run, gradient, jax.vmap(gradient)):
            inputs = batched(problem, 2) if function not in (run, gradient) else problem.inputs
            exported = export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(inputs)
            assert exported.platforms == ("cpu", "cuda", "tpu")


def equations(jaxpr):
    """Every equation of a program, those of inner programs and of `linear_map` included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)
        if eqn.primitive is linear_map.linear_map_p:
            forward, n = eqn.params["forward"], eqn.params["n_residuals"]
            avals = [var.aval for var in eqn.invars]
            inner = jax.make_jaxpr(lambda *flat, f=forward, n=n: f(flat[:n], flat[n:]))(*avals)
            yield from equations(inner.jaxpr)


def backward_loop(function, *args):
    """Dot products in the body of the reversed scan, and the number of its carries."""
    program = jax.make_jaxpr(function)(*args).jaxpr
    (scan,) = (
        eqn for eqn in equations(program) if eqn.primitive.name == "scan" and eqn.params["reverse"]
    )
    body = getattr(scan.params["jaxpr"], "jaxpr", scan.params["jaxpr"])
    dots = [eqn for eqn in equations(body) if eqn.primitive.name == "dot_general"]
    # What the loop hands on leaves it in the shape of one step, the rest stacked over time.
    carries = [
        out
        for out, of_step in zip(scan.outvars, body.outvars, strict=True)
        if out.aval.shape == of_step.aval.shape
    ]
    return dots, len(carries)


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("way", ["grad", "bptt"])
def test_weight_gradients_stand_outside_the_loop(name, way):
    problem = random_problem(name, 7, 2)
    if way == "grad":
        dots, carries = backward_loop(
            jax.grad(lambda inputs: loss(problem, inputs, "bptt")), problem.inputs
        )
    else:
        dots, carries = backward_loop(
            lambda inputs: lstm_jax.bptt(problem.cell, *inputs, d_hs=problem.hs_weights),
            problem.inputs,
        )
    # δz W_hᵀ [B, Z] × [H, Z]ᵀ, whatever way it is written, and no carry but the state's cotangent.
    (dot,) = dots
    assert dot.outvars[0].aval.shape == (2, 5)
    width = problem.params.w_h.shape[1]
    assert {var.aval.shape for var in dot.invars} <= {(2, width), (width, 5), (5, width)}
    assert carries == len(problem.state0)


def test_autodiff_accumulates_inside_the_loop():
    """The check above can tell: the plain scan's transpose has more products in its loop."""
    problem = random_problem("lstm", 7, 2)
    dots, _ = backward_loop(
        jax.grad(lambda inputs: loss(problem, inputs, "autodiff")), problem.inputs
    )
    assert len(dots) > 1


def test_weighing_sees_every_entry():
    """The loss of these tests has a different, nonzero slope at every output."""
    problem = random_problem("lstm", 3, 2)
    outputs = lstm_jax.unroll(problem.cell, *problem.inputs)
    slopes = jax.grad(lambda out: weigh(out, problem.hs_weights, problem.state_weights))(outputs)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(slopes)])
    assert len(set(flat.tolist())) == flat.size and np.all(flat != 0)


class TestWithoutARule:
    """A cell of one's own may leave the derivative to autodiff."""

    def test_auto_falls_back_and_bptt_refuses(self, x64):
        problem = random_problem("lstm", 4)
        bare = problem._replace(cell=problem.cell._replace(rule=None))
        gradients = [
            jax.grad(lambda inputs, p=p: loss(p, inputs, "auto"))(p.inputs) for p in (bare, problem)
        ]
        assert_close(*gradients, 1e-12)
        with pytest.raises(ValueError, match="no hand-derived rule"):
            loss(bare, bare.inputs, "bptt")


def test_a_second_call_outside_of_jit_traces_nothing():
    problem = random_problem("lstm", 5, 2)
    traced = []

    def counted(function):
        def counting(*args):
            traced.append(function)
            return function(*args)

        return counting

    rule = problem.cell.rule
    rule = rule._replace(
        forward_step=counted(rule.forward_step), backward_step=counted(rule.backward_step)
    )
    problem = problem._replace(cell=problem.cell._replace(rule=rule))
    counts = []
    for _ in range(2):
        jax.grad(lambda inputs: loss(problem, inputs, "auto"))(problem.inputs)
        counts.append(len(traced))
    assert 0 < counts[0] == counts[1]


@pytest.mark.parametrize(
    ("way", "options"),
    [(jax.grad, {}), (lambda f: f, {"reverse": True}), slow(jax.grad, {"segments": 2})],
    ids=["grad", "run in reverse", "grad in segments"],
)
def test_a_second_call_with_the_same_shapes_never_compiles(way, options, caplog):
    problem = random_problem("lstm", 6, 2)
    of_inputs = way(partial(loss, problem, gradient="auto", **options))
    with jax.log_compiles():
        jax.block_until_ready(of_inputs(problem.inputs))
        caplog.clear()
        others = jax.block_until_ready(jax.tree.map(lambda leaf: leaf * 2, problem.inputs))
        before = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
        jax.block_until_ready(of_inputs(others))
        again = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
    assert again == before
