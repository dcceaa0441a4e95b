"""A table of wrong values by the kind of an argument: wherever one comes, it is refused in one sentence.

Each entry point is called with right arguments, then with each wrong value of the argument's kind. What is
right for one entry (None for an optional argument) is listed there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wrong_values import KEY, Tensor, cases, require_refused

import lstm_jax
from lstm_jax import interfaces, tasks

pytestmark = pytest.mark.usefixtures("without_type_checker")


LSTM, GRU = lstm_jax.lstm(3, 4), lstm_jax.gru(3, 4)
PARAMS = LSTM.init(KEY)
XS = jnp.ones((6, 2, 3))
STATE = LSTM.initial_state(2)
NET = lstm_jax.stack(LSTM, lstm_jax.lstm(4, 4))
NET_PARAMS = NET.init(KEY)

WRONG = {
    "array": [
        "abc",
        [[1.0, 2.0], [3.0]],
        np.array(["a"]),
        Tensor(),
        3.0,
        jnp.ones((6, 2, 3), jnp.int32),
        jnp.ones((6, 2, 3), jnp.complex64),
        jnp.ones((6, 2, 5)),
        jnp.ones((1, 1, 1, 1)),
        object(),
    ],
    "cell": [None, "lstm", PARAMS, 3, object(), lstm_jax.lstm],
    "params": [
        None,
        {},
        "w",
        tuple(PARAMS),
        GRU.init(KEY),
        jnp.ones(3),
        lstm_jax.lstm(3, 5).init(KEY),
        PARAMS._replace(b=PARAMS.b.astype(jnp.int32)),
        PARAMS._replace(b=None),
        PARAMS._replace(w_x=Tensor()),
    ],
    "state": [
        "s",
        jnp.ones(4),
        jax.tree.map(lambda leaf: leaf[:1], STATE),
        jax.tree.map(lambda leaf: leaf[0], STATE),
        jax.tree.map(lambda leaf: leaf[:, :1], STATE),
        STATE._replace(c=jnp.ones((2, 1))),
        GRU.initial_state(2),
        tuple(STATE),
        lstm_jax.LSTMState(None, None),
    ],
    "lengths": [
        "x",
        [1],
        [1, 2, 3],
        [1.5, 2],
        [7, 1],
        [-1, 2],
        np.array([2**32 + 3, 2]),
        np.array([2**32, 2]),
        [True, False],
        jnp.ones((2, 1), int),
        Tensor(),
    ],
    "carry": [
        "s",
        3,
        jnp.ones(4),
        STATE,
        (jnp.ones((1, 4)),) * 2,
        (None, None),
        (Tensor(), Tensor()),
        (jnp.ones((2, 4), int),) * 2,
    ],
    "step": [
        3,
        "f",
        lambda: 0,
        lambda params, state: (state, state),
        lambda params, state, x: None,
        lambda params, state, x: (state[:1], x),
        lambda params, state, x: (state.astype(jnp.bfloat16), x),
        lambda params, state, x: ((state, state), x),
        lambda params, state, x: state,
    ],
}


def unrolled(cell=LSTM, params=PARAMS, xs=XS, state0=STATE, **options):
    return lstm_jax.unroll(cell, params, xs, state0, **options)


def sequences(**given):
    return unrolled(sequences=lstm_jax.Sequences(**given))


def noise(key=KEY, **rates):
    return unrolled(noise=lstm_jax.Noise(**rates, key=key))


ENTRIES = [
    (
        lstm_jax.lstm,
        {"input_size": 3, "hidden_size": 4},
        {"input_size": "size", "hidden_size": "size"},
    ),
    (lambda **o: lstm_jax.lstm(3, 4, **o), {}, {"peepholes": "bool", "coupled_gates": "bool"}),
    (lambda **o: lstm_jax.lstm(3, 4, **o), {}, {"layer_norm": "bool", "projection_size": "size"}),
    (lambda **o: lstm_jax.gru(3, 4, **o), {}, {"reset_after": "bool"}),
    (lambda **o: lstm_jax.rnn(3, 4, **o), {}, {"activation": "option"}),
    *[
        (lambda make=make, **o: make(3, 4, **o).init(KEY), {}, dict.fromkeys(names, "initialiser"))
        for make in (lstm_jax.lstm, lstm_jax.gru, lstm_jax.rnn)
        for names in [("w_x_init", "w_h_init", "b_init")]
    ],
    (
        lambda **o: lstm_jax.lstm(3, 4, peepholes=True, **o).init(KEY),
        {},
        dict.fromkeys(("w_x_init", "w_h_init", "b_init"), "initialiser"),
    ),
    (LSTM.init, {"key": KEY}, {"key": "key", "dtype": "dtype"}),
    (LSTM.initial_state, {"batch_size": 2}, {"batch_size": "size", "dtype": "dtype"}),
    (
        LSTM.step,
        {"params": PARAMS, "state": STATE, "x": XS[0]},
        {"params": "params", "state": "state", "x": "array"},
    ),
    (lstm_jax.orthogonal, {}, {"scale": "scale"}),
    (lstm_jax.scaled_identity, {}, {"scale": "scale"}),
    (lstm_jax.uniform, {"scale": 1.0}, {"scale": "scale"}),
    (lstm_jax.chrono, {"t_max": 9.0}, {"t_max": "scale"}),
    (unrolled, {}, {"cell": "cell", "params": "params", "xs": "array", "state0": "state"}),
    (unrolled, {}, {"gradient": "option", "backend": "option", "sequences": "option"}),
    (sequences, {"lengths": [1, 2]}, {"lengths": "lengths", "resets": "array"}),
    (sequences, {}, {"truncate": "size", "reverse": "bool"}),
    (noise, {"zoneout": 0.1}, {"zoneout": "rate", "recurrent_dropout": "rate"}),
    (
        lambda **o: unrolled(backend=lstm_jax.Loop(**o)),
        {},
        {"unroll": "size", "segments": "size"},
    ),
    (
        lambda step: lstm_jax.unroll(step, 1.0, XS, jnp.zeros((2, 3))),
        {"step": lambda params, state, x: (state + x, x)},
        {"step": "step"},
    ),
    (
        lstm_jax.bptt,
        {"cell": LSTM, "params": PARAMS, "xs": XS, "d_hs": jnp.ones((6, 2, 4))},
        {"cell": "cell", "params": "params", "xs": "array", "state0": "state", "reverse": "bool"},
    ),
    (
        lstm_jax.bptt,
        {"cell": LSTM, "params": PARAMS, "xs": XS, "d_hs": jnp.ones((6, 2, 4))},
        {"d_hs": "array", "d_state": "state", "unroll": "size"},
    ),
    (
        lambda **o: lstm_jax.stack(LSTM, **o),
        {},
        {"dropout": "rate", "residual": "bool", "learned_state": "bool", "output_size": "size"},
    ),
    (
        lambda xs, **o: lstm_jax.unroll_stack(NET, NET_PARAMS, xs, **o),
        {"xs": XS},
        {"xs": "array", "gradient": "option", "backend": "option"},
    ),
    (
        lambda input, **o: interfaces.torch_style(NET, NET_PARAMS, input, **o),
        {"input": XS},
        {"input": "array", "batch_first": "bool", "lengths": "lengths"},
    ),
    (
        lambda **o: interfaces.torch_style(NET, NET_PARAMS, XS, **o),
        {},
        {"hx": ["s", 3, jnp.ones((2, 2, 4)), (jnp.ones((1, 2, 4)),) * 2, (None, None), object()]},
    ),
    (
        lambda inputs, **o: interfaces.flax_style(LSTM, PARAMS, inputs, **o),
        {"inputs": XS},
        {"inputs": "array", "seq_lengths": "lengths", "initial_carry": "carry"},
    ),
    (
        # Two batch axes, which become one: what would fit the one is wrong.
        lambda **o: interfaces.flax_style(LSTM, PARAMS, jnp.ones((2, 2, 6, 3)), **o),
        {"seq_lengths": np.ones((2, 2), int)},
        {
            "seq_lengths": [
                "x",
                [1, 2, 3, 4],
                [[7, 1], [1, 2]],
                np.full((2, 2), 2**32 + 3),
                Tensor(),
            ],
            "initial_carry": [(jnp.ones((4, 4)),) * 2, (jnp.ones((1, 4, 4)),) * 2, (3.0, 3.0)],
        },
    ),
    (
        lambda **o: interfaces.flax_style(LSTM, PARAMS, XS, order=interfaces.FlaxOrder(**o)),
        {},
        {"time_major": "bool", "reverse": "bool", "keep_order": "bool"},
    ),
    (
        tasks.copy_memory,
        {"key": KEY, "batch_size": 2, "delay": 10},
        {"key": "key", "batch_size": "size", "delay": "size"},
    ),
]


@pytest.mark.parametrize(("call", "given"), [entry[:2] for entry in ENTRIES if entry[2]])
def test_the_right_values_pass(call, given):
    call(**given)


@pytest.mark.parametrize(("call", "given", "name", "value"), cases(ENTRIES, WRONG))
def test_a_wrong_value_is_refused(call, given, name, value):
    require_refused(call, given, name, value)
