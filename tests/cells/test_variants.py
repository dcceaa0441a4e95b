"""The LSTM's optional parts, in every combination, and the GRU that resets before its product.

By hand against `jax.grad` of the plain scan, the step against its papers' equations in NumPy, the Jacobian
against `jax.jacfwd`.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import (
    Problem,
    assert_close,
    grouped,
    loss,
    random_like,
    relative_error,
    slow,
    weigh,
)

import lstm_jax
from lstm_jax.cells import GRUResetBeforeParams, LSTMVariantParams, lstm_variants
from lstm_jax.jax_extensions.weight_with_transpose import FEWEST_STEPS

SIZES = (3, 5)
OPTIONS = ("peepholes", "coupled_gates", "layer_norm", "projection_size")
VALUES = ((False, True), (False, True), (False, True), (None, 4))
COMBINATIONS = {
    "+".join(name for name, value in zip(OPTIONS, values, strict=True) if value) or "plain": dict(
        zip(OPTIONS, values, strict=True)
    )
    for values in itertools.product(*VALUES)
}
CELLS = {
    **{name: lstm_jax.lstm(*SIZES, **options) for name, options in COMBINATIONS.items()},
    "reset_before": lstm_jax.gru(*SIZES, reset_after=False),
}
RICHEST = "+".join(OPTIONS)
# Without coupling, the terms of the input gate are there too.
RICH = [RICHEST, "peepholes+layer_norm+projection_size", "reset_before"]
VARIANTS = [name for name in CELLS if name != "plain"]


def quick(*names):
    """Every variant, those that are not named in the full run alone."""
    return [name if name in names else slow(name) for name in VARIANTS]


def random_variant(name, time=7, batch=3, *, dtype=float, seed=0, scale=0.5):
    """A `Problem` in asymmetric random numbers."""
    cell = CELLS[name]
    rng = np.random.default_rng([seed, time, batch or 0])
    batch_shape = () if batch is None else (batch,)
    state = jax.eval_shape(lambda: cell.initial_state(batch))

    def normal(tree, scale=1.0):
        return random_like(rng, tree, dtype, scale)

    def sequence(size):
        return normal(jax.ShapeDtypeStruct((time, *batch_shape, size), float))

    return Problem(
        cell=cell,
        params=normal(jax.eval_shape(cell.init, jax.random.key(0)), scale),
        xs=sequence(cell.input_size),
        state0=normal(state),
        hs_weights=sequence(cell.output_size),
        state_weights=normal(state),
    )


@partial(jax.jit, static_argnames=("cell", "reverse"))
def by_hand_and_autodiff(cell, reverse, problem):
    """Outputs and gradients both ways, in one program: ``((outputs, …), (outputs, …))``."""
    problem = problem._replace(cell=cell)

    def of(gradient):
        def outputs_and_loss(inputs):
            outputs = lstm_jax.unroll(cell, *inputs, **grouped(reverse=reverse, gradient=gradient))
            return weigh(outputs, problem.hs_weights, problem.state_weights), outputs

        return jax.grad(outputs_and_loss, has_aux=True)(problem.inputs)

    by_hand, outputs = of("bptt")
    autodiff, expected = of("autodiff")
    direct = lstm_jax.bptt(
        cell,
        *problem.inputs,
        d_hs=problem.hs_weights * jnp.cos(outputs[1]),
        d_state=problem.state_weights,
        reverse=reverse,
    )
    return (outputs, by_hand, direct), (expected, autodiff, autodiff)


def compare(name, time, batch, reverse, dtype, tolerance):
    problem = random_variant(name, time, batch, dtype=dtype)
    by_hand, autodiff = by_hand_and_autodiff(problem.cell, reverse, problem._replace(cell=None))
    assert_close(by_hand, autodiff, tolerance)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(autodiff))


@pytest.mark.parametrize("name", quick(RICHEST, "reset_before"))
def test_gradients_agree_in_float64(x64, name):
    compare(name, 7, 3, False, jnp.float64, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", RICH)
@pytest.mark.parametrize(
    ("time", "batch", "reverse"),
    [(7, None, False), (7, 3, True), (1, 3, False), (1, None, True)],
    ids=str,
)
def test_gradients_of_the_richest_agree(x64, name, time, batch, reverse):
    compare(name, time, batch, reverse, jnp.float64, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", RICH[1:])
def test_gradients_agree_in_float32(name):
    compare(name, 7, 3, False, jnp.float32, 1e-5)


MARKS = {
    "lengths": jnp.array([7, 0, 4]),
    "resets": jnp.zeros((7, 3), bool).at[2, 0].set(True).at[3, 2].set(True),
    "truncate": 3,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [RICHEST, "reset_before"])
@pytest.mark.parametrize(
    ("time", "options", "segments"),
    [
        (7, MARKS, 3),
        (7, {**MARKS, "reverse": True}, None),
        (FEWEST_STEPS, {}, None),
    ],
    ids=["marks and segments", "marks in reverse", "weights laid out for the loop"],
)
def test_gradients_agree_under_options(x64, name, time, options, segments):
    problem = random_variant(name, time)

    @jax.jit
    def gradients(inputs):
        by_hand = jax.grad(loss, argnums=1)(problem, inputs, "bptt", segments=segments, **options)
        return by_hand, jax.grad(loss, argnums=1)(problem, inputs, "autodiff", **options)

    assert_close(*gradients(problem.inputs), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", RICH)
def test_forward_mode_and_a_hessian_vector_product_agree(x64, name):
    problem = random_variant(name, 4, None)
    dots = random_like(np.random.default_rng(1), problem.inputs)

    @partial(jax.jit, static_argnames="gradient")
    def derivatives(inputs, gradient):
        def run(inputs):
            return lstm_jax.unroll(problem.cell, *inputs, **grouped(gradient=gradient))

        def slope(inputs):
            return jax.grad(loss, argnums=1)(problem, inputs, gradient)

        return jax.jvp(run, (inputs,), (dots,))[1], jax.jvp(slope, (inputs,), (dots,))[1]

    assert_close(
        derivatives(problem.inputs, "bptt"), derivatives(problem.inputs, "autodiff"), 1e-12
    )


def dense(block):
    """Write a diagonal block, a vector in closed form, as a matrix."""
    return jnp.diag(block) if block.ndim == 1 else block


@partial(jax.jit, static_argnums=0)
def both_jacobians(cell, params, state, x):
    by_state = jax.jacfwd(lambda s: cell.step(params, s, x)[0])(state)
    by_input = jax.jacfwd(lambda x: cell.step(params, state, x)[0])(x)
    by_hand = cell.step_jacobian(params, state, x), cell.input_jacobian(params, state, x)
    return by_hand, (by_state, by_input)


@pytest.mark.parametrize("name", quick("layer_norm", RICHEST, "peepholes", "reset_before"))
def test_step_jacobian_is_the_derivative_of_step(x64, name):
    cell, params, xs, state, *_ = random_variant(name, 1, None, scale=1.0)

    (by_hand, of_input), (by_state, by_input) = both_jacobians(cell, params, state, xs[0])
    assert_close(jax.tree.map(dense, by_hand), by_state, 1e-12)
    assert_close(of_input, by_input, 1e-12)
    if name != "reset_before":
        mixed = "layer_norm" in name or "projection" in name
        assert (by_hand.h.c.ndim, by_hand.c.c.ndim) == (2 if mixed else 1, 1)


@pytest.mark.parametrize("name", [RICH[1], slow(RICH[0]), slow("peepholes"), "reset_before"])
def test_step_jacobian_is_exact_where_gates_saturate(name):
    """σ(1 − σ) is 0 in float32 at z = 25, where the slope is 10⁻¹¹."""

    def moved_by_h(dtype):
        cell, params, xs, state, *_ = random_variant(name, 1, None)
        params = params._replace(b=jnp.full_like(params.b, 25))
        params, state, x = jax.tree.map(lambda a: a.astype(dtype), (params, state, xs[0]))
        blocks = both_jacobians(cell, params, state, x)
        # On the diagonal a GRU's u = 1 would hide all else.
        return [
            jax.tree.map(
                lambda m: np.asarray(m, np.float64) * (1 - np.eye(*m.shape)), block[0][-1].h
            )
            for block in blocks
        ]

    by_hand, autodiff = moved_by_h(jnp.float32)
    with jax.enable_x64(True):
        reference, _ = moved_by_h(jnp.float64)
    assert relative_error(by_hand, reference)[""] < 1e-5
    assert relative_error(autodiff, reference)[""] > 0.5


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def layer_norm(y):
    return (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)


def lstm_by_its_papers(params, xs, h, c, coupled):
    """The equations of each paper, gate by gate, in NumPy: hs, h_T, C_T and the last gates."""
    size, hs = c.shape[1], []
    names = "fgo" if coupled else "ifgo"
    peepholes = {}
    if params.p is not None:
        blocks = np.split(params.p, len(params.p) // size)
        peepholes = dict(zip(names.replace("g", ""), blocks, strict=True))
    for x in xs:
        from_x, from_h = x @ params.w_x, h @ params.w_h
        if params.norm_x is not None:
            from_x = layer_norm(from_x) * params.norm_x[None]
            from_h = layer_norm(from_h) * params.norm_h[None]
        z = dict(zip(names, np.split(from_x + from_h + params.b[None], len(names), 1), strict=True))
        for gate in set(peepholes) - {"o"}:
            z[gate] = z[gate] + peepholes[gate][None] * c
        f, g = sigmoid(z["f"]), np.tanh(z["g"])
        i = 1 - f if coupled else sigmoid(z["i"])
        c = f * c + i * g
        o = sigmoid(z["o"] + peepholes.get("o", np.zeros(size))[None] * c)
        shown = c
        if params.norm_c is not None:
            shown = params.norm_c[None] * layer_norm(c) + params.b_c[None]
        h = o * np.tanh(shown)
        if params.w_r is not None:
            h = h @ params.w_r
        hs.append(h)
    return (h, c), np.stack(hs), {"i": i, "f": f, "g": g, "o": o}


def gru_by_its_paper(params, xs, h):
    hs = []
    for x in xs:
        x_r, x_u, x_n = np.split(x @ params.w_x + params.b[None], 3, axis=1)
        w_r, w_u, w_n = np.split(params.w_h, 3, axis=1)
        r, u = sigmoid(x_r + h @ w_r), sigmoid(x_u + h @ w_u)
        n = np.tanh(x_n + (r * h) @ w_n)
        h = (1 - u) * n + u * h
        hs.append(h)
    return (h,), np.stack(hs), {"r": r, "u": u, "n": n}


@pytest.mark.parametrize("name", [*quick(*OPTIONS, RICHEST, "reset_before"), slow("plain")])
def test_steps_by_the_papers_equations(x64, name):
    cell, params, xs, state0, *_ = random_variant(name, 3, scale=1.0)
    every = jax.tree.map(np.asarray, params)
    if name == "plain":
        every = LSTMVariantParams(*every)
    if name == "reset_before":
        expected = gru_by_its_paper(every, np.asarray(xs), *map(np.asarray, state0))
    else:
        coupled = "coupled" in name
        expected = lstm_by_its_papers(every, np.asarray(xs), *map(np.asarray, state0), coupled)
    state, outs = state0, []
    gates_and_step = jax.jit(lambda *at: (cell.gates(*at), *cell.step(*at)))
    for x in xs:
        gates, state, out = gates_and_step(params, state, x)
        outs.append(out)
    assert_close((tuple(state), jnp.stack(outs), gates), expected, 1e-13)


def inner(left, right):
    return sum(
        float(jnp.vdot(a, b)) for a, b in zip(*map(jax.tree.leaves, (left, right)), strict=True)
    )


WRONG = {
    "p_i": lambda params, local: (params._replace(p=params.p.at[:5].set(0)), local),
    "p_f": lambda params, local: (params._replace(p=params.p.at[5:10].set(0)), local),
    "p_o": lambda params, local: (params._replace(p=params.p.at[10:].set(0)), local),
    **{
        field: lambda params, local, field=field: (
            params._replace(**{field: jnp.ones_like(getattr(params, field))}),
            local,
        )
        for field in ("norm_h", "norm_c", "w_r")
    },
    **{
        field: lambda params, local, field=field: (
            params,
            local._replace(**{field: jax.tree.map(jnp.zeros_like, getattr(local, field))}),
        )
        for field in lstm_variants.Local._fields
    },
}


def test_a_wrong_term_of_the_backward_step_is_seen(x64):
    """⟨δs_t, tangent_step(ṡ, ż)⟩ = ⟨δs_{t−1}, ṡ⟩ + ⟨δz, ż⟩, and not with any one term out of place."""
    cell, params, xs, state, _, d_state = random_variant(RICH[1], 1, 2)
    rule, rng = cell.rule, np.random.default_rng(2)
    _, residuals = rule.forward_step(params, state, xs[0])
    local = rule.local_derivatives(residuals)
    _, d_pre = rule.backward_step(params, local, d_state)
    state_dot, dot = random_like(rng, (state, d_pre))
    forward = inner(d_state, rule.tangent_step(params, local, state_dot, dot))

    def backward(params, local):
        d_before, d_pre = rule.backward_step(params, local, d_state)
        return inner(d_before, state_dot) + inner(d_pre, dot)

    assert backward(params, local) == pytest.approx(forward, rel=1e-12)
    for name, change in WRONG.items():
        wrong = backward(*change(params, local))
        assert wrong != pytest.approx(forward, rel=1e-6), name


@pytest.mark.slow
@pytest.mark.peer
def test_torchs_projected_lstm_agrees(x64):
    torch = pytest.importorskip("torch")
    problem = random_variant("projection_size")
    (state, hs) = lstm_jax.unroll(problem.cell, *problem.inputs)
    gradients = jax.grad(loss, argnums=1)(problem, problem.inputs, "bptt")
    layer = torch.nn.LSTM(*SIZES, proj_size=4, dtype=torch.float64)

    def tensor(array):
        return torch.tensor(np.asarray(array), dtype=torch.float64)

    def array(tensor):
        return jnp.asarray(tensor.detach().numpy())

    with torch.no_grad():
        layer.weight_ih_l0.copy_(tensor(problem.params.w_x.T))
        layer.weight_hh_l0.copy_(tensor(problem.params.w_h.T))
        layer.bias_ih_l0.zero_()
        layer.bias_hh_l0.copy_(tensor(problem.params.b))
        layer.weight_hr_l0.copy_(tensor(problem.params.w_r.T))
    xs = tensor(problem.xs).requires_grad_()
    state0 = [tensor(leaf)[None].requires_grad_() for leaf in problem.state0]
    out, final = layer(xs, tuple(state0))
    total = (tensor(problem.hs_weights) * torch.sin(out)).sum()
    for weight, leaf in zip(problem.state_weights, final, strict=True):
        total = total + (tensor(weight)[None] * leaf).sum()
    total.backward()
    assert_close((hs, tuple(state)), (array(out), tuple(array(leaf)[0] for leaf in final)), 1e-12)
    names = {"w_x": "weight_ih_l0", "w_h": "weight_hh_l0", "b": "bias_hh_l0", "w_r": "weight_hr_l0"}
    theirs = {name: array(getattr(layer, theirs).grad).T for name, theirs in names.items()}
    assert_close({name: getattr(gradients.params, name) for name in names}, theirs, 1e-12)
    assert_close(gradients.xs, array(xs.grad), 1e-12)
    assert_close(list(gradients.state0), [array(leaf.grad)[0] for leaf in state0], 1e-12)


@pytest.mark.parametrize("name", quick(RICHEST, "reset_before"))
def test_dtypes_and_shapes_follow_the_parameters(name):
    problem = random_variant(name, dtype=jnp.bfloat16)
    for gradient in ("bptt", "autodiff"):
        gradients = jax.eval_shape(
            lambda inputs, gradient=gradient: jax.grad(loss, argnums=1)(problem, inputs, gradient),
            problem.inputs,
        )
        assert jax.tree.map(lambda a: (a.shape, a.dtype), gradients) == jax.tree.map(
            lambda a: (a.shape, a.dtype), problem.inputs
        )


@pytest.mark.parametrize("name", [RICHEST, "reset_before"])
def test_bfloat16_runs(name):
    problem = random_variant(name, dtype=jnp.bfloat16)
    single = problem._replace(cell=None)
    reference = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), single)
    run = partial(jax.jit(lstm_jax.unroll, static_argnums=0), problem.cell)
    (state, hs), (_, expected) = run(*problem.inputs), run(*reference.inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves((state, hs))} == {jnp.dtype(jnp.bfloat16)}
    assert float(jnp.abs(hs.astype(jnp.float32) - expected).max()) < 0.1


@pytest.mark.parametrize("name", VARIANTS)
def test_equal_arguments_give_an_equal_cell(name):
    again = (
        lstm_jax.gru(*SIZES, reset_after=False)
        if name == "reset_before"
        else lstm_jax.lstm(*SIZES, **COMBINATIONS[name])
    )
    assert again == CELLS[name]
    assert {again} == {CELLS[name]}


def test_without_options_they_are_the_plain_cells():
    off = {"peepholes": False, "coupled_gates": False, "layer_norm": False}
    assert lstm_jax.lstm(3, 5, **off, projection_size=None) == lstm_jax.lstm(3, 5)
    assert lstm_jax.gru(3, 5, reset_after=True) == lstm_jax.gru(3, 5)
    assert lstm_jax.lstm(3, 5).name == "lstm"


def test_names_and_sizes():
    cell = CELLS[RICHEST]
    assert repr(cell) == "lstm_peephole_coupled_norm_projected(input_size=3, hidden_size=5)"
    assert cell.output_size == 4
    assert lstm_jax.lstm(3, 5, layer_norm=True).name == "lstm_norm"
    assert CELLS["reset_before"].name == "gru_reset_before"
    params = jax.eval_shape(cell.init, jax.random.key(0))
    shapes = LSTMVariantParams((3, 15), (4, 15), (15,), (10,), (15,), (15,), (5,), (5,), (5, 4))
    assert jax.tree.map(lambda leaf: leaf.shape, params) == shapes
    params = jax.eval_shape(CELLS["reset_before"].init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.shape, params) == GRUResetBeforeParams(
        (3, 15), (5, 15), (15,)
    )
    state, out = cell.step(cell.init(jax.random.key(0)), cell.initial_state(2), jnp.ones((2, 3)))
    assert (state.h.shape, state.c.shape, out.shape) == ((2, 4), (2, 5), (2, 4))


def test_initial_parameters():
    params = lstm_jax.lstm(3, 50, peepholes=True, layer_norm=True, projection_size=20).init(
        jax.random.key(0)
    )
    assert params.b.reshape(4, 50).tolist() == [[number] * 50 for number in (0, 1, 0, 0)]
    for drawn in (params.p, params.w_r):
        assert 0.9 * 50**-0.5 < float(jnp.abs(drawn).max()) <= 50**-0.5
    for gain in (params.norm_x, params.norm_h, params.norm_c):
        assert set(gain.tolist()) == {1}
    assert set(params.b_c.tolist()) == {0}


def test_forget_and_update_biases():
    key, chrono = jax.random.key(0), lstm_jax.chrono(100)
    coupled = lstm_jax.lstm(3, 50, coupled_gates=True).init(key).b.reshape(3, 50)
    assert coupled.tolist() == [[number] * 50 for number in (1, 0, 0)]
    coupled = lstm_jax.lstm(3, 50, coupled_gates=True, forget_bias=chrono)
    b_f, b_g, b_o = coupled.init(key).b.reshape(3, 50)
    assert float(b_f.min()) >= 0 and 3 < float(b_f.max()) < np.log(99)
    assert not b_g.any() and not b_o.any()
    peepholes = lstm_jax.lstm(3, 50, peepholes=True, forget_bias=chrono)
    b_i, b_f, *_ = peepholes.init(key).b.reshape(4, 50)
    assert (b_i == -b_f).all() and 3 < float(b_f.max())
    gru = lstm_jax.gru(3, 50, reset_after=False, update_bias=chrono)
    b_r, b_u, b_n = gru.init(key).b.reshape(3, 50)
    assert 3 < float(b_u.max()) and not b_r.any() and not b_n.any()
    b_u = lstm_jax.gru(3, 50, reset_after=False, update_bias=-2.0).init(key).b[50:100]
    assert (b_u == -2).all()


@pytest.mark.usefixtures("without_type_checker")
class TestRefusals:
    @pytest.mark.parametrize("name", ["peepholes", "coupled_gates", "layer_norm"])
    @pytest.mark.parametrize("value", [1, None, "yes", 0.0], ids=repr)
    def test_parts_are_true_or_false(self, name, value):
        with pytest.raises(ValueError, match=f"expected {name} as True or False, got {value!r}."):
            lstm_jax.lstm(3, 5, **{name: value})

    @pytest.mark.parametrize("value", [1, None, "no"], ids=repr)
    def test_reset_after(self, value):
        with pytest.raises(
            ValueError, match=f"expected reset_after as True or False, got {value!r}."
        ):
            lstm_jax.gru(3, 5, reset_after=value)

    @pytest.mark.parametrize("value", [0, -1, 2.0, True, "2"], ids=repr)
    def test_projection_is_a_size(self, value):
        with pytest.raises(
            ValueError, match="expected projection_size to be a positive integer, got"
        ):
            lstm_jax.lstm(3, 5, projection_size=value)

    @pytest.mark.parametrize("value", [5, 6])
    def test_projection_is_smaller_than_the_hidden_size(self, value):
        with pytest.raises(ValueError, match=f"smaller than hidden_size, 5, got {value}."):
            lstm_jax.lstm(3, 5, projection_size=value)

    def test_params_of_another_combination(self):
        params = CELLS["peepholes"].init(jax.random.key(0))
        with pytest.raises(TypeError, match="expected lstm_norm params as .*LSTMVariantParams"):
            lstm_jax.unroll(lstm_jax.lstm(3, 5, layer_norm=True), params, jnp.zeros((2, 3)))

    def test_state_of_another_size(self):
        cell = lstm_jax.lstm(3, 5, projection_size=4)
        params, state = cell.init(jax.random.key(0)), lstm_jax.lstm(3, 5).initial_state()
        with pytest.raises(lstm_jax.ShapeError, match=r"expected state0.h \[4\] .*, got \[5\]"):
            lstm_jax.unroll(cell, params, jnp.zeros((2, 3)), state)
        with pytest.raises(lstm_jax.ShapeError, match=r"expected d_hs \[2, 4\], got \[2, 5\]"):
            lstm_jax.bptt(cell, params, jnp.zeros((2, 3)), d_hs=jnp.zeros((2, 5)))
