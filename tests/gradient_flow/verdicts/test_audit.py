"""The audit of gradients by hand: right ones pass, each fault shows in its leaf and from its lag."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from gradient_flow import audit
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
        if fault == "cut after 3 steps" and len(x) - t == 3:
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
        ({"lags": []}, ValueError, r"expected at least one lag, got none"),
        ({"loss_at": "first"}, ValueError, r"Unknown loss_at: expected one of 'last', 'every'"),
        ({"tolerance": 0.0}, ValueError, r"expected tolerance as a finite number above 0"),
        ({"gradient": 3}, TypeError, r"expected gradient and loss as functions, got int"),
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
