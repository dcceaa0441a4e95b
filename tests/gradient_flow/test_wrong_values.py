"""The table of wrong values, at the entries of the microscope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_wrong_values import KEY, LSTM, NET_PARAMS, PARAMS, XS
from test_wrong_values import WRONG as OWN
from wrong_values import GENERAL

import gradient_flow
import lstm_jax

pytestmark = pytest.mark.usefixtures("without_type_checker")

WRONG = GENERAL | OWN
FIVE = np.arange(5.0)
LAGS = ["x", [-1], [99], [1.5], [], 3, [True], [[1]]]
NAMES = ["no", "", 3, True, ["auto"], [3]]
LOSS = [3, "f", lambda: 0, lambda state: "x", lambda state: None, lambda state: jnp.ones(2)]
CURVE = ["abc", [[1.0, 2.0], [3.0]], np.array(["a"]), object(), jnp.ones(3), np.ones(5) * 1j]
# A plain step may have any state and inputs; those of a cell are its own.
KINDS = {
    "cell": ("cell", WRONG["cell"]),
    "params": ("params", WRONG["params"]),
    "state0": ("state0", WRONG["state"]),
    "xs": ("xs", WRONG["array"]),
    "batched": ("batched", [value for value in WRONG["bool"] if value is not None]),
}


def measured(name, **fixed):
    """A measurement of the LSTM."""
    function = getattr(gradient_flow, name)

    def call(cell=LSTM, params=PARAMS, state0=None, xs=XS, **options):
        return function(cell, params, state0, xs, **fixed | options)

    return call


def by_hand(params, state0, xs):
    d_hs = jnp.zeros((len(xs), 4)).at[-1].set(1.0)
    return lstm_jax.bptt(LSTM, params, xs, state0, d_hs=d_hs).params


def audited(**options):
    given = {
        "gradient": by_hand,
        "cell_or_step": LSTM,
        "loss": lambda params, state, x: jnp.sum(state.h),
        "params": PARAMS,
        "state0": LSTM.initial_state(),
        "xs": XS[:, 0],
    }
    return gradient_flow.audit(**given | options)


ALL = tuple(KINDS)
UNBATCHED = ("cell", "params", "state0", "xs")
ENTRIES = [
    (
        measured("jacobian_norms"),
        ALL,
        {"times": LAGS, "lags": LAGS, "blocks": NAMES, "norms": NAMES},
    ),
    (measured("all_pairs_norms"), ALL, {"every": WRONG["size"], "blocks": NAMES, "norms": NAMES}),
    (
        measured("lyapunov_spectrum"),
        ALL,
        {"k": WRONG["size"], "every": WRONG["size"], "skip": WRONG["size"][1:]},
    ),
    (measured("gate_time_constants"), UNBATCHED, {}),
    (measured("gate_activations"), UNBATCHED, {}),
    (measured("autodiff_norms"), UNBATCHED, {}),
    (measured("singular_spectrum"), ALL, {}),
    (
        measured("probe_norms", key=KEY, probes=gradient_flow.Probes(number=2)),
        ALL,
        {"key": WRONG["key"], "probes": NAMES},
    ),
    (measured("detour_norms", most=1, lags=[2]), ALL, {"lags": LAGS, "blocks": NAMES}),
    (measured("gate_path_norms", kept=["o"], lags=[2]), UNBATCHED, {"lags": LAGS, "blocks": NAMES}),
    (measured("credit", loss=lambda state: jnp.sum(state.h)), ALL, {"loss": LOSS}),
    (measured("diagnose"), ALL, {"lag": WRONG["size"], "loss": LOSS[:3]}),
    (
        lambda function=lambda xs: xs, xs=XS, loss=jnp.sum: gradient_flow.input_credit(
            function, xs, loss
        ),
        (),
        {"function": LOSS[:3], "loss": LOSS[:3], "xs": WRONG["array"][:5]},
    ),
    (
        audited,
        (),
        {
            "gradient": LOSS[:3],
            "cell_or_step": WRONG["cell"],
            "loss": LOSS[:3],
            "params": WRONG["params"][:3],
            "state0": WRONG["state"][:3],
            "xs": [*WRONG["array"][:5], object()],
            "loss_at": NAMES,
            "lags": LAGS,
        },
    ),
    *[
        (
            lambda f=f, lags=FIVE, log_norms=-FIVE: f(lags, log_norms),
            (),
            {"log_norms": CURVE, "lags": ["x", [[1], [2, 3]], object(), np.arange(4)]},
        )
        for f in (gradient_flow.decades_per_100, gradient_flow.half_life, gradient_flow.horizon)
    ],
    (
        lambda factor: gradient_flow.horizon(FIVE, -FIVE, factor=factor),
        (),
        {"factor": [*WRONG["rate"], 0, 1, -1.0]},
    ),
    (
        lambda exponents=FIVE, size=9: gradient_flow.kaplan_yorke_dimension(exponents, size=size),
        (),
        {"exponents": ["abc", np.array(["a"]), object(), np.ones(0), 3.0], "size": WRONG["size"]},
    ),
    (
        lambda network: gradient_flow.layer_norms(network, NET_PARAMS, None, XS),
        (),
        {"network": [value for value in WRONG["cell"]]},
    ),
]
CASES = [
    pytest.param(
        call,
        name,
        value,
        id=f"{number}-{name}-{n}",
        # The quick run takes a tenth of each kind, another tenth for each argument.
        marks=() if (number + len(name) + n) % 10 == 0 else pytest.mark.slow,
    )
    for number, (call, shared, own) in enumerate(ENTRIES)
    for name, values in {**{s: KINDS[s][1] for s in shared}, **own}.items()
    for n, value in enumerate(values)
]


@pytest.mark.parametrize(("call", "name", "value"), CASES)
def test_a_wrong_value_is_refused(call, name, value):
    with pytest.raises((ValueError, TypeError)) as refused:
        jax.block_until_ready(call(**{name: value}))
    first = str(refused.value).splitlines()[0]
    assert "expected" in first and ("got" in first or "without" in first)


def test_the_right_values_pass():
    audited(lags=[1])
