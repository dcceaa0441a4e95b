"""Every writer with every kind of net: written and computing the same when it is read again, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import slow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lstm_jax
from lstm_jax import backward, bidirectional, gru, lstm, rnn, stack, weights
from lstm_jax.layers.stack import StackParams

D, H, T, B = 3, 4, 4, 2
XS = jnp.asarray(np.random.default_rng(0).standard_normal((T, B, D)), jnp.float32)

NETS = {
    "lstm": lstm(D, H),
    "gru": gru(D, H),
    "gru before": gru(D, H, reset_after=False),
    "rnn tanh": rnn(D, H),
    "rnn relu": rnn(D, H, activation="relu"),
    "rnn identity": rnn(D, H, activation="identity"),
    "peepholes": lstm(D, H, peepholes=True),
    "coupled": lstm(D, H, coupled_gates=True),
    "norm": lstm(D, H, layer_norm=True),
    "projected": stack(lstm(D, H, projection_size=2)),
    "backward": backward(lstm(D, H)),
    "both": bidirectional(gru(D, H)),
    "unlike": bidirectional(lstm(D, H), gru(D, 2)),
    "stack": stack(lstm(D, H), lstm(H, H)),
    "stack both": stack(bidirectional(lstm(D, H)), bidirectional(lstm(2 * H, H))),
    "stack kinds": stack(gru(D, H), lstm(H, 2)),
    "stack dropout": stack(lstm(D, H), lstm(H, H), dropout=0.5),
    "residual": stack(lstm(D, D), lstm(D, D), residual=True),
    "projection": stack(lstm(D, H), output_size=2),
    "zoneout": stack(lstm(D, H), zoneout=0.1),
    "learned": stack(lstm(D, H), learned_state=True),
}
CELLS = {"lstm", "gru", "gru before", "rnn tanh", "rnn relu", "rnn identity"}


def of_flax(net, params):
    api_params = weights.to_flax(net, params)
    return weights.from_flax(api_params, activation=activation_of(net))


def of_nnx(net, params):
    return weights.from_flax(weights.to_flax(net, params, api="nnx"), activation=activation_of(net))


def of_keras(net, params):
    before = "reset_after=False" in repr(net) or net in (NETS["gru before"],)
    return weights.from_keras(
        weights.to_keras(net, params), activation=activation_of(net), reset_after=not before
    )


def of_pytorch(net, params):
    return weights.from_pytorch(weights.to_pytorch(net, params), activation=activation_of(net))


def of_haiku(net, params):
    return weights.from_haiku(weights.to_haiku(net, params, "m"), "m")


def of_equinox(net, params):
    arrays = weights.to_equinox(net, params)
    # As the door reads these names; Equinox itself is compared in test_any_source_peers.
    return weights.load({"cell": arrays})


def of_tensorflow(net, params):
    return weights.from_tensorflow_cell(*weights.to_tensorflow_cell(net, params))


def activation_of(net):
    return getattr(net, "activation", None) or "tanh"


WRITERS = {
    "flax": (of_flax, {"lstm", "gru", "rnn tanh", "rnn relu", "backward", "both", "unlike", "stack",
                       "stack both", "stack kinds", "stack dropout"}),
    "nnx": (of_nnx, {"lstm", "gru", "rnn tanh", "rnn relu", "backward", "both", "unlike", "stack",
                     "stack both", "stack kinds", "stack dropout"}),
    "keras": (of_keras, CELLS | {"backward", "both", "unlike"}),
    "pytorch": (of_pytorch, {"lstm", "gru", "rnn tanh", "rnn relu", "projected", "stack",
                             "stack both", "stack dropout"}),
    "haiku": (of_haiku, {"lstm", "gru before", "rnn relu"}),
    "equinox": (of_equinox, {"lstm", "gru"}),
    "tensorflow": (of_tensorflow, {"lstm"}),
}  # fmt: skip


def drawn(net, seed, b_hn=True):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(net.init, jax.random.key(0))

    def one(path, a):
        kept = b_hn or "b_hn" not in jax.tree_util.keystr(path)
        return jnp.asarray(0.5 * kept * rng.standard_normal(a.shape), jnp.float32)

    return jax.tree.map_with_path(one, shapes)


def as_stack(net, params):
    return (
        (net, params) if isinstance(net, lstm_jax.Stack) else (stack(net), StackParams((params,)))
    )


def plain(net):
    """The cells of a net, without what arrays do not say: that a layer alone runs backward, and dropout."""
    layers = as_stack(net, ())[0].layers
    return [layer.cell if isinstance(layer, lstm_jax.Backward) else layer for layer in layers]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("writer", [slow("nnx"), *(one for one in WRITERS if one != "nnx")])
def test_a_net_is_written_right_or_refused(without_type_checker, writer, name):
    write, holds = WRITERS[writer]
    net = NETS[name]
    params = drawn(net, 0, b_hn=writer != "nnx")
    if name in holds:
        again, back = as_stack(*write(net, params))
        assert plain(again) == plain(net)
        for a, b in zip(
            jax.tree.leaves(back), jax.tree.leaves(as_stack(net, params)[1]), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-6)
        return
    with pytest.raises(
        (ValueError, TypeError), match="^[A-Z][a-z]+ mismatch: expected|^Unknown"
    ) as e:
        write(net, params)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


CELL_KINDS = {
    "lstm": lstm,
    "gru": gru,
    "gru before": lambda d, h: gru(d, h, reset_after=False),
    "rnn": rnn,
    "peepholes": lambda d, h: lstm(d, h, peepholes=True),
}


WAYS = ("ahead", "backward", "alike", "both")
LAYER = st.tuples(
    *[st.sampled_from(sorted(CELL_KINDS))] * 2,
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(WAYS),
)


def made(size, layers):
    """Up to three layers of any kinds and sizes, one way, backward or both ways."""
    found = []
    for ahead, back, h, other, way in layers:
        ahead, back = CELL_KINDS[ahead](size, h), CELL_KINDS[back](size, other)
        found.append(
            {
                "ahead": ahead,
                "backward": backward(ahead),
                "alike": bidirectional(ahead),
                "both": bidirectional(ahead, back),
            }[way]
        )
        size = found[-1].output_size
    return stack(*found)


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    size=st.integers(1, 3),
    layers=st.lists(LAYER, min_size=1, max_size=3),
    writer=st.sampled_from(sorted(WRITERS)),
    seed=st.integers(0, 99),
)
def test_any_stack_comes_back_or_is_refused(without_type_checker, size, layers, writer, seed):
    """What one layer alone is may be written too: Keras keeps weights by layer."""
    net = made(size, layers)
    for one in (net, net.layers[0]):
        params = drawn(one, seed, b_hn=writer != "nnx")
        try:
            again, back = as_stack(*WRITERS[writer][0](one, params))
        except (ValueError, TypeError) as error:
            assert "expected" in str(error) and "got" in str(error)
            continue
        assert plain(again) == plain(one)
        given_params = as_stack(one, params)[1]
        for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(given_params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
