"""The audit of gradients by hand: right ones pass, each fault shows in its leaf and from its lag."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import slow

import lstm_jax
from gradient_flow import audit
from gradient_flow.verdicts.step_contributions import _differentiated
from lstm_jax import NonFiniteError, RNNParams, RNNState, ShapeError

T, B, D, H = 9, 2, 3, 4
CELL = lstm_jax.rnn(D, H)


def step(params, state, x):
    return CELL.step(params, state, x["x"])


def loss(params, state, x):
    return jnp.sum(state.h**2 * x["r"])


def problem(length=T, dtype=float):
    rng = np.random.default_rng(3)
    params = RNNParams(
        *(jnp.asarray(0.6 * rng.standard_normal(shape), dtype) for shape in ((D, H), (H, H), (H,)))
    )
    state0 = RNNState(jnp.asarray(rng.standard_normal((B, H)), dtype))
    xs = {
        "x": jnp.asarray(rng.standard_normal((length, B, D)), dtype),
        "r": jnp.asarray(rng.standard_normal((length, B, H)), dtype),
    }
    return params, state0, xs


def by_hand(params, state0, xs, *, every=False, single=False, fault=None):
    """A vanilla network's gradient in NumPy loops, with one fault if named."""
    w_x, w_h, b = (np.asarray(leaf) for leaf in params)
    x, r = np.asarray(xs["x"]), np.asarray(xs["r"])
    hs = [np.asarray(state0.h)]
    for row in x:
        hs.append(np.tanh(row @ w_x + hs[-1] @ w_h + b))
    parts = []
    d_h = np.zeros_like(hs[0])
    for t in reversed(range(len(x))):
        if every or t == len(x) - 1:
            d_h = d_h + 2 * hs[t + 1] * r[t]
        d_z = d_h * (1 - hs[t + 1] ** 2)
        h_prev = hs[t + 1] if fault == "h_t for h_{t-1}" else hs[t]
        d_b = d_z.mean(0) if fault == "mean over the batch" else d_z.sum(0)
        parts.append((x[t].T @ d_z, h_prev.T @ d_z, d_b))
        if fault and fault.startswith("cut after") and len(x) - t == int(fault.split()[2]):
            d_z = 0 * d_z
        if fault == "w_h not transposed" and t < len(x) - 1:
            d_h = d_z @ w_h
        else:
            d_h = d_z @ w_h.T
    stacked = [np.stack(leaf[::-1]) for leaf in zip(*parts, strict=True)]
    return RNNParams(*(leaf if single else leaf.sum(0) for leaf in stacked))


@pytest.mark.parametrize("loss_at", ["last", "every"])
@pytest.mark.parametrize("single", [False, True])
def test_a_right_gradient_passes_at_every_lag(loss_at, single):
    def gradient(*arguments):
        return by_hand(*arguments, every=loss_at == "every", single=single)

    found = audit(gradient, step, loss, *problem(), loss_at=loss_at)
    assert found.ok and found.wrong == {}
    assert found.lags.tolist() == list(range(T))
    assert [leaf.name for leaf in found.leaves] == ["w_x", "w_h", "b"]
    assert all(leaf.whole < 1e-14 and leaf.by_lag.max() < 1e-12 for leaf in found.leaves)
    # Nothing is compared with nothing.
    assert all(leaf.sizes.min() > 1e-6 for leaf in found.leaves)
    assert found.verdict.startswith("right at every lag up to 8")


@pytest.mark.parametrize("loss_at", ["last", "every"])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("h_t for h_{t-1}", {"w_h": 0}),
        ("mean over the batch", {"b": 0}),
        ("cut after 3 steps", {"w_x": 3, "w_h": 3, "b": 3}),
        ("w_h not transposed", {"w_x": 2, "w_h": 2, "b": 2}),
    ],
)
def test_each_fault_shows_in_its_leaf_and_from_its_lag(loss_at, single, fault, wrong):
    def gradient(*arguments):
        return by_hand(*arguments, every=loss_at == "every", single=single, fault=fault)

    found = audit(gradient, step, loss, *problem(), loss_at=loss_at)
    assert found.wrong == wrong
    assert not found.ok
    assert f"wrong from lag {min(wrong.values())} on in" in found.verdict
    assert f"<- wrong from lag {min(wrong.values())}" in str(found)


def test_the_errors_are_those_of_the_single_contributions(x64):
    """Against the c_k by brute force: the loss of a sequence whose step k alone has moved parameters."""
    params, state0, xs = problem()
    found = audit(
        lambda *arguments: by_hand(*arguments, single=True, fault="h_t for h_{t-1}"),
        step,
        loss,
        params,
        state0,
        xs,
        lags=[0, 2, 5],
    )
    for i, lag in enumerate([0, 2, 5]):

        def last_loss(moved, at=T - 1 - lag):
            state = state0
            for t in range(T):
                x = jax.tree.map(lambda leaf, t=t: leaf[t], xs)
                state, _ = step(moved if t == at else params, state, x)
            return loss(params, state, x)

        right = jax.jit(jax.grad(last_loss))(params).w_h
        wrong = by_hand(params, state0, xs, single=True, fault="h_t for h_{t-1}").w_h[T - 1 - lag]
        error = np.max(np.abs(wrong - np.asarray(right))) / np.max(np.abs(right))
        assert found.leaves[1].by_lag[i] == pytest.approx(error, rel=1e-9)
        assert found.leaves[1].sizes[i] == pytest.approx(float(np.max(np.abs(right))), rel=1e-9)


@pytest.mark.slow
def test_a_cell_the_bptt_of_the_library_and_float32_input():
    """Cells are taken as they are; what comes in float32 is audited in float64."""
    cell = lstm_jax.lstm(D, H)
    params, state0 = cell.init(jax.random.key(0)), cell.initial_state(B)
    xs = jax.random.normal(jax.random.key(1), (4, B, D))

    def gradient(params, state0, xs):
        d_hs = jnp.zeros((len(xs), B, H), xs.dtype).at[-1].set(1.0)
        return lstm_jax.bptt(cell, params, xs, state0, d_hs=d_hs).params

    found = audit(gradient, cell, lambda p, s, x: jnp.sum(s.h), params, state0, xs, lags=[0, 2])
    assert found.ok, str(found)
    assert params.w_h.dtype == jnp.float32


def test_a_leaf_of_zeros_has_the_cotangent_of_what_it_is_added_to(x64):
    params, state0, xs = problem()

    def nudged(params, state, x):
        state, _ = step(params[0], state, x)
        return RNNState(state.h + params[1][None]), state.h

    def gradient(params, state0, xs, share=1.0):
        own = by_hand(params[0], state0, xs, single=True)
        w_x, w_h, b = (np.asarray(leaf) for leaf in params[0])
        hs = [np.asarray(state0.h)]
        for row in np.asarray(xs["x"]):
            hs.append(np.tanh(row @ w_x + hs[-1] @ w_h + b))
        d_hs = np.zeros((len(xs["x"]), B, H))
        d_hs[-1] = 2 * hs[-1] * np.asarray(xs["r"])[-1]
        for t in reversed(range(len(d_hs) - 1)):
            d_hs[t] = share * (d_hs[t + 1] * (1 - hs[t + 2] ** 2)) @ w_h.T
        return own, d_hs.sum(1)

    arguments = (nudged, lambda p, s, x: loss(p, s, x), (params, jnp.zeros(H)), state0, xs)
    assert audit(gradient, *arguments).ok
    wrong = audit(lambda *a: gradient(*a, share=0.99), *arguments).wrong
    assert wrong == {"1": 1}


def test_a_nan_is_an_error():
    def gradient(*arguments):
        found = by_hand(*arguments, single=True)
        found.b[T - 3] = np.nan
        return found

    found = audit(gradient, step, loss, *problem())
    assert found.wrong == {"b": 2}
    assert found.worst == ("b", 2, np.inf)


def test_lags_that_are_not_looked_at_count_as_a_whole():
    found = audit(
        lambda *a: by_hand(*a, fault="cut after 3 steps"), step, loss, *problem(), lags=[0, 1]
    )
    assert found.wrong == {} and not found.ok
    assert found.verdict.startswith(
        "right at the lags that were compared, wrong as a whole in w_x, w_h, b"
    )


def scaled(gradient, share):
    return lambda *arguments: jax.tree.map(lambda leaf: share * leaf, gradient(*arguments))


def clipped(gradient, most):
    """By the norm of all leaves together."""

    def with_the_norm(*arguments):
        found = gradient(*arguments)
        whole = [leaf if leaf.ndim < 2 or len(leaf) < T else leaf.sum(0) for leaf in found]
        norm = np.sqrt(sum(np.sum(leaf**2) for leaf in whole))
        return jax.tree.map(lambda leaf: leaf * min(1, most / norm), found)

    return with_the_norm


@pytest.mark.slow
def test_a_vanishing_gradient_that_was_cut_off_is_not_called_right():
    """Cut after 20 of 60 steps, where a step's part has fallen below the rounding of the sums."""
    params, state0, xs = problem(60)
    arguments = (step, loss, params._replace(w_h=0.2 * params.w_h), state0, xs)

    def gradient(*given, single, fault="cut after 20 steps"):
        return by_hand(*given, single=single, fault=fault)

    lags = list(range(60))
    parts = audit(lambda *a: gradient(*a, single=True), *arguments, lags=lags)
    assert parts.wrong == {"w_x": 20, "w_h": 20, "b": 20}
    assert all((leaf.resolution == 0).all() for leaf in parts.leaves)
    for fault in ("cut after 20 steps", None):
        sums = audit(lambda *a, f=fault: gradient(*a, single=False, fault=f), *arguments, lags=lags)
        # Where a part is smaller than the rounding of its sum.
        lost = np.any([leaf.sizes <= leaf.resolution * leaf.sizes for leaf in sums.leaves], axis=0)
        whole = [np.abs(np.asarray(leaf)).max() for leaf in gradient(*arguments[2:], single=False)]
        small = [s.sizes <= 1e-13 * w for s, w in zip(sums.leaves, whole, strict=True)]
        first = int(np.argmax(np.any(small, axis=0)))
        assert first == np.argmax(lost) and 5 < first < 20
        assert sums.ok and sums.resolved_lags.tolist() == lags[:first]
        assert all(np.isnan(leaf.by_lag[30:]).all() for leaf in sums.leaves)
        assert all((leaf.resolution[30:] >= 1).all() for leaf in sums.leaves)
        assert sums.worst[1] < 20 and sums.worst[2] < 1e-6
        assert sums.verdict.startswith(f"right at every lag up to {first - 1}: the largest error")
        assert f"not resolved from lag {first} on" in sums.verdict
        assert sums.verdict.endswith("Return [T, *shape], the part of each step, to tell further")
        assert "       -\n" in str(sums) and "-: not resolved" in str(sums)


@pytest.mark.parametrize("single", [False, True])
def test_a_common_factor_is_recognised(single):
    def gradient(*arguments):
        return by_hand(*arguments, single=single)

    for wrong in (scaled(gradient, 0.37), clipped(gradient, 0.1)):
        found = run(wrong)
        assert not found.ok and found.factor.meaning == "clipped or scaled as a whole"
        assert found.verdict == f"right up to one common factor {found.factor.value:.3g}: " + (
            "clipped or scaled as a whole"
        )
    assert run(scaled(gradient, 0.37)).factor.value == pytest.approx(0.37, rel=1e-12)
    whole = np.sqrt(sum(np.sum(leaf**2) for leaf in by_hand(*problem())))
    assert run(clipped(gradient, 0.1)).factor.value == pytest.approx(0.1 / whole, rel=1e-6)
    # One leaf alone, one lag alone, and one number alone, are no common factor.
    assert run(lambda *a: by_hand(*a, single=single, fault="mean over the batch")).factor is None
    assert run(lambda *a: by_hand(*a, single=single, fault="cut after 3 steps")).factor is None


def test_a_mean_in_place_of_a_sum_is_named(x64):
    found = run(scaled(by_hand, 1 / B))
    assert found.verdict == (
        "right up to one common factor 0.5: 1/2, a mean over the batch in place of a sum"
    )

    def every(*arguments):
        return by_hand(*arguments, every=True)

    found = run(scaled(every, 1 / T), loss_at="every")
    assert found.factor.meaning == "1/9, a mean over the steps in place of a sum"
    found = run(scaled(every, 1 / (B * T)), loss_at="every")
    assert found.factor.meaning == "1/18, a mean over the batch and the steps in place of a sum"
    assert run(scaled(every, T), loss_at="every").factor.meaning == (
        "a sum over the steps in place of a mean"
    )


@pytest.mark.parametrize("name", ["lstm", slow("gru")])
def test_packed_weights_gate_by_gate_and_gates_in_another_order(x64, name):
    """The parts of each step by autodiff, with some gates' columns spoilt or in another order."""
    cell = {"lstm": lstm_jax.lstm, "gru": lstm_jax.gru}[name](D, H)
    gates, length = cell.gate_names, 4
    params, state0 = cell.init(jax.random.key(0), jnp.float64), cell.initial_state(B, jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (length, B, D), jnp.float64)
    right = _differentiated(cell.step, lambda p, s, x: jnp.sum(s.h**2), "last", params, state0, xs)[
        0
    ]
    parts = jax.tree.map(np.asarray, right)

    def found_with(change):
        def gradient(*_):
            return parts._replace(**{n: change(n, getattr(parts, n)) for n in ("w_x", "w_h", "b")})

        return audit(gradient, cell, lambda p, s, x: jnp.sum(s.h**2), params, state0, xs)

    assert found_with(lambda name, leaf: leaf).ok

    def spoil(which):
        """{leaf: {gate: first lag}}"""

        def change(name, leaf):
            leaf = leaf.copy()
            for gate, lag in which.get(name, {}).items():
                place = gates.index(gate)
                leaf[: length - lag, ..., place * H : (place + 1) * H] *= 1.5
            return leaf

        return change

    first, last = gates[0], gates[-1]
    found = found_with(spoil({"w_h": {first: 1}}))
    assert found.wrong == {"w_h": 1} and found.wrong_gates == {"w_h": {first: 1}}
    assert found.verdict.startswith(f"wrong from lag 1 on in gate {first} of w_h: the largest")
    both = {"w_h": {first: 0, last: 2}, "w_x": {first: 0, last: 2}}
    found = found_with(spoil(both))
    assert found.wrong_gates == both and found.gate_order is None
    assert found.verdict.startswith(
        f"wrong from lag 0 on in gate {first} of w_x, w_h; from lag 2 on in gate {last} of w_x, w_h"
    )
    every = dict.fromkeys(gates, 1)
    found = found_with(spoil({"w_x": {last: 1}, "b": every}))
    assert found.verdict.startswith(f"wrong from lag 1 on in gate {last} of w_x, and in b: ")
    # A gate's error is relative to the whole leaf, as the leaf's own.
    leaf = found.leaves[0]
    np.testing.assert_array_equal(leaf.by_gate[last], leaf.by_lag)

    order = (*gates[:-2], gates[-1], gates[-2])

    def reorder(name, leaf):
        columns = dict(zip(gates, np.split(leaf, len(gates), axis=-1), strict=True))
        return np.concatenate([columns[gate] for gate in order], axis=-1)

    found = found_with(reorder)
    assert not found.ok and found.gate_order == order
    assert found.verdict == (
        f"right up to the order of the gates, {', '.join(order)} in place of {', '.join(gates)}"
    )


def test_one_step():
    found = audit(by_hand, step, loss, *problem(1))
    assert found.ok and found.lags.tolist() == [0]


def run(gradient=by_hand, loss=loss, **changed):
    params, state0, xs = problem()
    given = {"params": params, "state0": state0, "xs": xs} | changed
    options = {key: given.pop(key) for key in ("lags", "loss_at", "tolerance") if key in given}
    return audit(gradient, step, loss, given["params"], given["state0"], given["xs"], **options)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"lags": [T]}, ValueError, r"expected lags from 0 to 8, got 9"),
        ({"lags": [True]}, ValueError, r"expected lags from 0 to 8, got True"),
        ({"lags": []}, ValueError, r"expected at least one of lags, got none"),
        ({"loss_at": "first"}, ValueError, r"Unknown loss_at: expected one of 'last', 'every'"),
        ({"tolerance": 0.0}, ValueError, r"expected tolerance as a finite number above 0"),
        ({"gradient": 3}, TypeError, r"expected gradient\(params, state0, xs\), got 3"),
        ({"gradient": lambda *a: by_hand(*a).w_h}, TypeError, r"expected the gradient by hand as"),
        (
            {"gradient": lambda *a: by_hand(*a)._replace(b=np.zeros(3))},
            ShapeError,
            r"expected the gradient by hand of b as \[4\] or \[9, 4\], got \[3\]",
        ),
        (
            {"loss": lambda params, state, x: state.h},
            ValueError,
            r"Loss mismatch: expected a scalar loss, got",
        ),
        (
            {"xs": {"x": jnp.zeros((3, B, D)), "r": jnp.zeros((4, B, H))}},
            ShapeError,
            r"expected xs with one leading time axis, got",
        ),
        (
            {"xs": {"x": jnp.full((3, B, D), jnp.nan), "r": jnp.zeros((3, B, H))}},
            NonFiniteError,
            r"expected finite xs.x, got NaN",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    changed, error, message, without_type_checker
):
    with pytest.raises(error, match=message) as refusal:
        run(**changed)
    assert "\n" not in str(refusal.value)
