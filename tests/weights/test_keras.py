"""Live against Keras on its JAX backend: outputs, final states and gradients, through the converters."""

import os
import warnings
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import assert_close, random_like

import lstm_jax
from lstm_jax import weights

D, H, T, B = 3, 5, 6, 4
LENGTHS = np.array([4, 6, 1, 3])
KINDS = {
    "rnn_tanh": ("SimpleRNN", {}, {}),
    "rnn_relu": ("SimpleRNN", {"activation": "relu"}, {"activation": "relu"}),
    "rnn_identity": ("SimpleRNN", {"activation": "linear"}, {"activation": "linear"}),
    "lstm": ("LSTM", {}, {}),
    "gru": ("GRU", {}, {}),
    "gru_reset_before": ("GRU", {"reset_after": False}, {"reset_after": False}),
}


@contextmanager
def keras_peer():
    """Keras on JAX, which knows neither strict dtypes nor strict ranks."""
    os.environ["KERAS_BACKEND"] = "jax"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        keras = pytest.importorskip("keras")
        if keras.backend.backend() != "jax":
            pytest.skip("Keras was imported before, with another backend")
        before = keras.config.floatx(), keras.config.dtype_policy()
        keras.config.set_floatx("float64")
        # Whoever has made a layer before has fixed the policy, which floatx then does not change.
        keras.config.set_dtype_policy("float64")
        try:
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                yield keras
        finally:
            keras.config.set_floatx(before[0])
            keras.config.set_dtype_policy(before[1])


def layer_of(keras, name, **options):
    kind, own, _ = KINDS[name]
    return getattr(keras.layers, kind)(
        H,
        return_sequences=True,
        return_state=True,
        zero_output_for_mask=True,
        **own,
        **options,
    )


def randomised(layer, seed=0):
    layer.build((B, T, D))
    rng = np.random.default_rng(seed)
    layer.set_weights([0.4 * rng.standard_normal(array.shape) for array in layer.get_weights()])
    return layer


@pytest.mark.peer
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("ways", "bias"),
    [
        pytest.param("both", True, id="both ways"),
        pytest.param("both", False, id="both ways, no bias", marks=pytest.mark.slow),
        pytest.param("backward", False, id="backward, no bias", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", KINDS)
def test_layer(name, ways, bias):
    rng = np.random.default_rng(1)
    xs = jnp.asarray(rng.standard_normal((T, B, D)))
    with keras_peer() as keras:
        layer = layer_of(keras, name, use_bias=bias, go_backwards=ways == "backward")
        if ways == "both":
            layer = keras.layers.Bidirectional(layer)
        # On JAX, Keras's own tanh makes float32 of float64. `test_layer_as_it_comes` has it.
        for one in [layer.forward_layer, layer.backward_layer] if ways == "both" else [layer]:
            if one.cell.activation is keras.activations.tanh:
                one.cell.activation = jnp.tanh
        randomised(layer)
        cell, params = weights.from_keras(layer.get_weights(), **KINDS[name][2])
        state0 = random_like(rng, jax.eval_shape(lambda: cell.initial_state(B)))
        size = cell.output_size
        mask = jnp.asarray(np.arange(T) < LENGTHS[:, None])
        ys_weights = jnp.asarray(rng.standard_normal((T, B, size)))
        state_weights = random_like(rng, state0)

        def theirs(variables, xs, state0):
            (out, *final), _ = layer.stateless_call(
                variables,
                fixed,
                xs.swapaxes(0, 1),
                initial_state=jax.tree.leaves(state0),
                mask=mask,
            )
            out = out.swapaxes(0, 1)
            if ways == "backward":  # theirs come in the order of the loop
                out = out[::-1]
            return weighed(out, final), (final, out)

        def weighed(ys, final):
            held = [
                jnp.sum(v * s) for v, s in zip(jax.tree.leaves(state_weights), final, strict=True)
            ]
            return jnp.sum(ys_weights * jnp.sin(ys)) + sum(held)

        variables = [variable.value for variable in layer.trainable_variables]
        fixed = [variable.value for variable in layer.non_trainable_variables]
        gradient = jax.jit(jax.value_and_grad(theirs, argnums=(0, 1, 2), has_aux=True))
        (_, (final, out)), (d_variables, d_xs, d_state0) = gradient(variables, xs, state0)

    def ours(params, xs, state0):
        if ways == "both":
            net = lstm_jax.stack(cell)
            states, ys = lstm_jax.unroll_stack(
                net,
                lstm_jax.StackParams((params,)),
                xs,
                (state0,),
                sequences=lstm_jax.Sequences(lengths=LENGTHS),
            )
        else:
            reverse = ways == "backward"
            states, ys = lstm_jax.unroll(
                cell,
                params,
                xs,
                state0,
                sequences=lstm_jax.Sequences(lengths=LENGTHS, reverse=reverse),
            )
        return weighed(ys, jax.tree.leaves(states)), (states, ys)

    gradient = jax.jit(jax.value_and_grad(ours, argnums=(0, 1, 2), has_aux=True))
    (_, (states, ys)), (d_params, own_d_xs, own_d_state0) = gradient(params, xs, state0)
    assert_close(ys, out, 1e-12)
    assert_close(jax.tree.leaves(states), list(final), 1e-12)
    assert_close(own_d_xs, d_xs, 1e-12)
    assert_close(own_d_state0, d_state0, 1e-12)
    # The gradient by a layer's weights is laid out as they are; a sum of biases hands its own to both.
    written = [jnp.asarray(array) for array in weights.to_keras(cell, d_params)]
    if name == "gru":
        for place in range(2, len(written), 3):
            written[place] = written[place].at[1, : 2 * H].set(written[place][0, : 2 * H])
    if not bias:
        written = [array for place, array in enumerate(written) if place % 3 < 2]
    assert_close(written, list(d_variables), 1e-12)
    # There and back. Keras's second bias of r and u is zero on the way out.
    back = weights.to_keras(cell, params, use_bias=bias)
    assert [array.shape for array in back] == [variable.shape for variable in variables]
    again, read = weights.from_keras(back, **KINDS[name][2])
    assert again == cell
    assert_close(read, params, 0)


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
def test_layer_as_it_comes(kind):
    """In float32 and with Keras's defaults."""
    with keras_peer() as keras:
        layer = getattr(keras.layers, kind)(H, return_sequences=True, dtype="float32")
        randomised(layer)
        xs = np.random.default_rng(1).standard_normal((T, B, D)).astype(np.float32)
        out = np.asarray(layer(xs.swapaxes(0, 1))).swapaxes(0, 1)
        cell, params = weights.from_keras(layer.get_weights())
    _, ys = lstm_jax.unroll(cell, params, jnp.asarray(xs))
    assert_close(np.asarray(ys), out, 3e-6)


UNLIKE = {
    "sizes": (("LSTM", H, {}), ("LSTM", 2, {})),
    "kinds": (("LSTM", H, {}), ("GRU", 2, {})),
    "forms": (("GRU", H, {}), ("GRU", H, {"reset_after": False})),
    "activations": (("SimpleRNN", H, {"activation": "relu"}), ("SimpleRNN", 2, {})),
}


@pytest.mark.peer
@pytest.mark.parametrize("name", UNLIKE)
def test_directions_that_are_not_alike(name):
    """Keras's ``backward_layer``: read with its configuration, through the door, and written back."""
    with keras_peer() as keras:
        ways = [
            getattr(keras.layers, kind)(
                size, return_sequences=True, go_backwards=back, dtype="float32", **options
            )
            for back, (kind, size, options) in enumerate(UNLIKE[name])
        ]
        layer = keras.layers.Bidirectional(ways[0], backward_layer=ways[1], name="both")
        randomised(layer)
        xs = np.random.default_rng(1).standard_normal((T, B, D)).astype(np.float32)
        out = np.asarray(layer(xs.swapaxes(0, 1))).swapaxes(0, 1)
        pair, params = weights.from_keras(layer.get_weights(), config=layer.get_config())
        assert isinstance(pair, lstm_jax.Bidirectional) and pair.forward != pair.backward
        (found,) = weights.recurrent_layers(layer)
        assert found.directions == 2
        for net, own in ((lstm_jax.stack(pair), lstm_jax.StackParams((params,))), found.load()):
            _, ys = lstm_jax.unroll_stack(net, own, jnp.asarray(xs))
            assert_close(np.asarray(ys), out, 3e-6)
        other = jax.tree.map(lambda a: a + 0.1, params)
        layer.set_weights(weights.to_keras(pair, other))
        out = np.asarray(layer(xs.swapaxes(0, 1))).swapaxes(0, 1)
        net, own = lstm_jax.stack(pair), lstm_jax.StackParams((other,))
        assert_close(np.asarray(lstm_jax.unroll_stack(net, own, jnp.asarray(xs))[1]), out, 3e-6)


def test_two_kinds_in_two_directions():
    pair = lstm_jax.bidirectional(lstm_jax.lstm(D, H), lstm_jax.gru(D, 2))
    params = pair.init(jax.random.key(0))
    again, back = weights.from_keras(weights.to_keras(pair, params))
    assert again == pair
    assert_close(back, params, 0.0)
    with pytest.raises(ValueError, match="expected kind='lstm', got the 3 gates of 'gru'"):
        weights.from_keras(weights.to_keras(pair, params), kind="lstm")


CELL = lstm_jax.lstm(D, H)


def arrays_of(cell=CELL, **options):
    return weights.to_keras(cell, cell.init(jax.random.key(0)), **options)


@pytest.mark.parametrize(
    ("place", "array", "message"),
    [
        (0, np.ones((3, 21), "f"), r"the kernel \[3, 20\] \(D=3, H=5\), got \[3, 21\]"),
        (1, np.ones((5, 10), "f"), r"1, 3 or 4 gates of 5 units, got \[5, 10\]"),
        (1, np.ones(5, "f"), r"recurrent kernel as a matrix, got \[5\]"),
        (2, np.ones(19, "f"), r"the bias \[20\] .* got \[19\]"),
        (2, np.ones(20), "expected bias float32 as kernel is, got float64"),
        (2, np.ones(20, int), "expected bias in floating point, got int64"),
    ],
)
def test_arrays_refused(place, array, message):
    arrays = arrays_of()
    arrays[place] = array
    with pytest.raises((ValueError, TypeError), match=message):
        weights.from_keras(arrays)


def test_options_refused():
    arrays = arrays_of()
    with pytest.raises(ValueError, match="of one layer or of two, got 5 arrays"):
        weights.from_keras([*arrays, *arrays[:2]])
    with pytest.raises(ValueError, match="expected kind='gru', got the 4 gates of 'lstm'"):
        weights.from_keras(arrays, kind="gru")
    with pytest.raises(ValueError, match="Unknown kind"):
        weights.from_keras(arrays, kind="LSTM")
    with pytest.raises(ValueError, match="activation='tanh' with 4 gates, got 'relu'"):
        weights.from_keras(arrays, activation="relu")
    other = arrays_of(lstm_jax.gru(D, H))
    with pytest.raises(lstm_jax.ShapeError, match=r"\[15\] .*reset_after=False\), got \[2, 15\]"):
        weights.from_keras(other, reset_after=False)
    with pytest.raises(lstm_jax.ShapeError, match=r"backward kernel \[3, 20\]"):
        weights.from_keras([*arrays, np.ones((4, 20), "f"), *arrays[1:]])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (lstm_jax.lstm(D, H, peepholes=True), "Keras has, got .* with peepholes"),
        (lstm_jax.lstm(D, H, coupled_gates=True), "with coupled gates"),
        (lstm_jax.lstm(D, H, layer_norm=True), "with layer normalisation"),
        (lstm_jax.lstm(D, H, projection_size=2), "with a projection"),
        (lstm_jax.bidirectional(CELL, lstm_jax.lstm(D, H, peepholes=True)), "with peepholes"),
    ],
)
def test_cells_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        arrays_of(cell)


def test_bias_refused():
    with pytest.raises(ValueError, match="biases of zero for use_bias=False"):
        arrays_of(use_bias=False)


@pytest.mark.usefixtures("without_type_checker")
def test_stack_refused():
    with pytest.raises(TypeError, match="one layer of the stack after the other, got a Stack"):
        arrays_of(lstm_jax.stack(CELL))
