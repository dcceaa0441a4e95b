"""The signatures of PyTorch and of Flax around the same numbers; PyTorch itself beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close

import lstm_jax
from lstm_jax import bidirectional, gru, lstm, rnn, stack
from lstm_jax.interfaces import FlaxOrder, flax_style, torch_style

B, T, D, H = 3, 6, 2, 4
NETS = {
    "lstm": stack(bidirectional(lstm(D, H)), bidirectional(lstm(2 * H, H))),
    "gru": stack(gru(D, H), gru(H, H)),
    "rnn": stack(bidirectional(rnn(D, H))),
}


@pytest.mark.parametrize(
    ("name", "given", "batch_first"),
    [
        ("lstm", True, True),
        ("gru", False, True),
        ("rnn", True, False),
        ("gru", True, False),
        ("lstm", False, False),
    ],
)
def test_torch_style_is_the_unrolled_stack(name, given, batch_first):
    net = NETS[name]
    params = net.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (T, B, D))
    states = net.initial_state(B)
    cells = sum(2 if isinstance(layer, lstm_jax.Bidirectional) else 1 for layer in net.layers)
    hx = None
    if given:
        leaves = jax.random.normal(jax.random.key(2), (2, cells, B, H))
        hx = (leaves[0], leaves[1]) if name == "lstm" else leaves[0]
        flat = [leaves[:1, n] if name != "lstm" else leaves[:, n] for n in range(cells)]
        rest = iter(flat)
        states = jax.tree.map(
            lambda kind: type(kind)(*next(rest)),
            states,
            is_leaf=lambda s: hasattr(s, "h"),
        )
    expected, ys = lstm_jax.unroll_stack(
        net, params, xs, states, sequences=lstm_jax.Sequences(lengths=jnp.array([6, 2, 4]))
    )
    output, final = torch_style(
        net,
        params,
        jnp.swapaxes(xs, 0, 1) if batch_first else xs,
        hx,
        batch_first=batch_first,
        lengths=jnp.array([6, 2, 4]),
    )
    assert_close(jnp.swapaxes(output, 0, 1) if batch_first else output, ys, 0.0)
    final = final if name == "lstm" else (final,)
    assert_close(
        [jnp.concatenate(leaf) for leaf in final],
        [
            jnp.concatenate(leaves)
            for leaves in zip(
                *jax.tree.leaves(expected, is_leaf=lambda s: hasattr(s, "h")), strict=True
            )
        ],
        0.0,
    )


def test_torch_style_takes_one_starting_state_for_every_sequence():
    net = NETS["lstm"]
    params = net.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (T, B, D))
    cells = sum(2 if isinstance(layer, lstm_jax.Bidirectional) else 1 for layer in net.layers)
    h, c = jax.random.normal(jax.random.key(2), (2, cells, H))
    found = torch_style(net, params, xs, (h, c))
    wide = [jnp.repeat(leaf[:, None], B, 1) for leaf in (h, c)]
    assert_close(found, torch_style(net, params, xs, tuple(wide)), 0.0)


def test_torch_style_refusals(without_type_checker):
    net = NETS["gru"]
    params = net.init(jax.random.key(0))
    xs = jnp.ones((T, B, D))
    with pytest.raises(lstm_jax.ShapeError, match=r"expected h_0 \[2, ...\].* got \[3, 3, 4\]"):
        torch_style(net, params, xs, jnp.zeros((3, B, H)))
    with pytest.raises(TypeError, match="expected hx as"):
        torch_style(NETS["lstm"], params, xs, (jnp.zeros((4, B, H)),))
    mixed = stack(lstm(D, H), gru(H, H))
    with pytest.raises(ValueError, match="expected cells of one kind and size"):
        torch_style(mixed, mixed.init(jax.random.key(0)), xs)


def test_flax_style_without_a_batch_and_with_two_axes():
    cell = lstm(D, H)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (2, B, T, D))
    (c, h), outputs = flax_style(cell, params, xs, order=FlaxOrder(time_major=False))
    for n in range(2):
        for b in range(B):
            state, hs = lstm_jax.unroll(cell, params, xs[n, b])
            assert_close((c[n, b], h[n, b], outputs[n, b]), (state.c, state.h, hs), 1e-6)
            assert_close(flax_style(cell, params, xs[n, b]), ((state.c, state.h), hs), 0.0)
    turned, order = (
        flax_style(cell, params, xs, order=FlaxOrder(reverse=True, keep_order=keep))[1]
        for keep in (False, True)
    )
    np.testing.assert_array_equal(turned, order[:, :, ::-1])


def test_the_order_of_axes_and_of_time():
    """Each field alone against its definition, with lengths where the padding shows the difference."""
    cell = gru(D, H)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (B, T, D))
    lengths = np.array([6, 2, 4])

    def style(inputs, **fields):
        order = FlaxOrder(**fields)
        return flax_style(cell, params, inputs, seq_lengths=jnp.array(lengths), order=order)

    assert FlaxOrder() == (False, False, False, "zeros")
    carry, plain = style(xs)
    by_time = style(jnp.swapaxes(xs, 0, 1), time_major=True)
    assert_close(by_time, (carry, jnp.swapaxes(plain, 0, 1)), 0.0)
    # Reversed, each sequence begins at its own last step, and its outputs come in the order of the loop.
    turned = np.stack(
        [np.roll(x[::-1], n, 0) for x, n in zip(np.asarray(xs), lengths, strict=True)]
    )
    assert_close(style(xs, reverse=True), style(jnp.asarray(turned)), 1e-6)
    last, kept = style(xs, reverse=True, keep_order=True)
    own = [
        np.asarray(y)[:n][::-1] for y, n in zip(style(xs, reverse=True)[1], lengths, strict=True)
    ]
    for b, n in enumerate(lengths):
        np.testing.assert_array_equal(kept[b, :n], own[b])
        assert not kept[b, n:].any()
    assert_close(last, style(xs, reverse=True)[0], 0.0)
    # Without reverse there is nothing to keep.
    assert_close(style(xs, keep_order=True), (carry, plain), 0.0)


def test_flax_style_refusals(without_type_checker):
    cell = lstm(D, H)
    params = cell.init(jax.random.key(0))
    with pytest.raises(
        lstm_jax.ShapeError, match=r"expected inputs \[\*batch, T, D\], D=2, got \[2\]"
    ):
        flax_style(cell, params, jnp.ones(D))
    with pytest.raises(
        TypeError, match=r"expected initial_carry as \(c, h\), of a lstm, got PyTree"
    ):
        flax_style(cell, params, jnp.ones((T, D)), initial_carry=jnp.zeros(H))
    with pytest.raises(TypeError, match=r"expected order as FlaxOrder\(...\), got tuple"):
        flax_style(cell, params, jnp.ones((T, D)), order=(True, False, False))
