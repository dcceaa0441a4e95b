r"""A language model: an embedding, a recurrent stack and a distribution over the next token.

    x_t = E[token_t]                            an embedding, or the one-hot vector itself
    y_1 … y_T = stack(d(x_1) … d(x_T))          d: dropout
    logits_t = d(y_t) W_y + b_y                 W_y = Eᵀ where the weights are tied
    loss = mean over t and batch of −log softmax(logits_t)[token_{t+1}]      in nats

Perplexity is exp(loss), bits per token loss / log 2.

Axes: tokens[T, B] of int32 codes; E[V, D], W_y[P, V], b_y[V] with P the stack's output size.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn.initializers import zeros

from lstm_jax.array_types import Array, Float, Int, PyTree
from lstm_jax.backends.loop import Loop
from lstm_jax.cells.cell import parameter_shapes, state_shapes
from lstm_jax.dropout import dropout as drop
from lstm_jax.dropout import require_rate
from lstm_jax.initializers import Initializer, drawn, require_initializers, uniform
from lstm_jax.language.token_codes import checked_codes
from lstm_jax.language.vocabulary import TextError
from lstm_jax.layers.stack import Stack, StackParams, require_one_direction, starting_states
from lstm_jax.layers.unroll_stack import unroll_stack
from lstm_jax.validation import (
    DtypeError,
    ShapeError,
    require_array,
    require_arrays,
    require_bool,
    require_finite,
    require_floating_dtype,
    require_key,
    require_positive_int,
    require_same_structure,
    require_type,
    show_shape,
)


class LanguageParams(NamedTuple):
    """Parameters of a language model.

    Attributes:
        embedding: E[V, D]; None where tokens are one-hot.
        stack: of the recurrent layers.
        w_y: [P, V]; None where the weights are tied.
        b_y: [V].
    """

    embedding: Float[Array, "vocabulary d"] | None
    stack: StackParams
    w_y: Float[Array, "p vocabulary"] | None
    b_y: Float[Array, "vocabulary"]


class LanguageModel(NamedTuple):
    """A stack with the embedding and readout of tokens; make it with `language_model`. Hashable."""

    stack: Stack
    vocabulary_size: int
    embedding: bool
    tied: bool
    dropout: float
    embedding_init: Initializer
    w_y_init: Initializer | None
    b_y_init: Initializer

    def init(self, key: Array, dtype: Any = float) -> LanguageParams:
        """Draw parameters: ``init(key, dtype)`` -> `LanguageParams`."""
        require_key(key)
        dtype = require_floating_dtype(dtype)
        key_stack, key_y, key_e, key_b = jax.random.split(key, 4)
        sizes = (self.stack.output_size, self.vocabulary_size)
        w_y_init = self.w_y_init or uniform(sizes[0] ** -0.5)
        table = (self.vocabulary_size, self.stack.input_size)
        embedding, w_y = None, None
        if self.embedding:
            embedding = drawn("embedding_init", self.embedding_init, key_e, table, dtype)
        if not self.tied:
            w_y = drawn("w_y_init", w_y_init, key_y, sizes, dtype)
        return LanguageParams(
            embedding=embedding,
            stack=self.stack.init(key_stack, dtype),
            w_y=w_y,
            b_y=drawn("b_y_init", self.b_y_init, key_b, sizes[1:], dtype),
        )

    def inputs(self, params: LanguageParams, tokens: Int[Array, "..."]) -> Float[Array, "... d"]:
        """The vectors of tokens, whole numbers from 0 to V − 1 of any shape."""
        require_model_params(self, params)
        return self._vectors(params, tokens)

    def _vectors(self, params: LanguageParams, tokens: Any) -> Array:
        tokens = jnp.asarray(checked_codes("tokens", tokens, self.vocabulary_size))
        if params.embedding is not None:
            return params.embedding[tokens]
        return jax.nn.one_hot(tokens, self.vocabulary_size, dtype=params.b_y.dtype)

    def logits(
        self, params: LanguageParams, ys: Float[Array, "... p"]
    ) -> Float[Array, "... vocabulary"]:
        """Unnormalised log-probabilities, in single precision at least."""
        require_model_params(self, params)
        require_array("ys", ys)
        if jnp.shape(ys)[-1:] != (self.stack.output_size,):
            raise ShapeError(
                f"Shape mismatch: expected ys [..., {self.stack.output_size}], got "
                f"{show_shape(jnp.shape(ys))}."
            )
        if not jnp.issubdtype(ys.dtype, jnp.floating):
            raise DtypeError(f"Dtype mismatch: expected ys in floating point, got {ys.dtype.name}.")
        return self._readout(params, ys)

    def _readout(self, params: LanguageParams, ys: Array) -> Array:
        matrix: Any = params.embedding if self.tied else params.w_y
        w_y = matrix.T if self.tied else matrix
        dtype = ys.dtype if jnp.finfo(ys.dtype).bits >= 32 else jnp.dtype(jnp.float32)
        found = jnp.matmul(ys, w_y, preferred_element_type=dtype)
        return found + jnp.broadcast_to(params.b_y.astype(dtype), found.shape)

    def step(
        self, params: LanguageParams, states: tuple[Any, ...], token: Int[Array, "..."]
    ) -> tuple[tuple[Any, ...], Float[Array, "... vocabulary"]]:
        """One token: ``(states, logits)``; for generating, and for the microscope."""
        require_model_params(self, params)
        xs = self._vectors(params, token)
        require_states(self, states, xs.dtype, xs.shape[:-1])
        states, y = self.stack.step(params.stack, states, xs)
        return states, self._readout(params, y)


def language_model(
    stack: Stack,
    vocabulary_size: int,
    *,
    embedding: bool = True,
    tied: bool = False,
    dropout: float = 0.0,
    embedding_init: Initializer | None = None,
    w_y_init: Initializer | None = None,
    b_y_init: Initializer = zeros,
) -> LanguageModel:
    """A language model over a stack that runs forward.

    Args:
        stack: from `lstm_jax.stack`, its input size that of the embedding, or the vocabulary's without one.
        vocabulary_size: V.
        embedding: whether tokens have learned vectors; otherwise they are one-hot.
        tied: whether the readout is the transposed embedding (Press & Wolf 2017).
        dropout: rate on the embedded tokens and on the outputs (Zaremba et al. 2014); that between layers
            is the stack's.
        embedding_init: initialiser of E; the standard normal distribution if None.
        w_y_init: initialiser of W_y; uniform(1/√P) if None.
        b_y_init: initialiser of b_y; zeros.

    Returns:
        A `LanguageModel` over `LanguageParams`; its state is the stack's.

    Raises:
        TypeError: anything but a stack that runs forward, or an initialiser that cannot be called.
        ValueError: sizes that do not fit, tied weights without an embedding, a rate outside of [0, 1).

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> from lstm_jax.language import language_model, token_loss
        >>> net = language_model(lstm_jax.stack(lstm_jax.lstm(8, 16)), 28)
        >>> params = net.init(jax.random.key(0))
        >>> tokens = jnp.zeros((35, 32), jnp.int32)
        >>> loss, states = token_loss(net, params, None, tokens, tokens)
        >>> bool(abs(loss - jnp.log(28)) < 0.5), states[0].h.shape
        (True, (32, 16))
    """
    if not isinstance(stack, Stack):
        raise TypeError(f"Stack mismatch: expected a stack, got {type(stack).__name__}.")
    require_one_direction(stack)
    require_positive_int("vocabulary_size", vocabulary_size)
    for name, flag in {"embedding": embedding, "tied": tied}.items():
        require_bool(name, flag)
    require_rate("dropout", dropout)
    require_initializers(embedding_init=embedding_init, w_y_init=w_y_init, b_y_init=b_y_init)
    if not embedding and stack.input_size != vocabulary_size:
        raise ValueError(
            f"Size mismatch: expected a stack of input size {vocabulary_size}, the vocabulary's, without an "
            f"embedding, got {stack.input_size}."
        )
    if tied and (not embedding or stack.input_size != stack.output_size):
        raise ValueError(
            "Size mismatch: expected tied weights with an embedding and equal input and output sizes of "
            f"the stack, got {'an' if embedding else 'no'} embedding, {stack.input_size} and "
            f"{stack.output_size}."
        )
    return LanguageModel(
        stack=stack,
        vocabulary_size=vocabulary_size,
        embedding=bool(embedding),
        tied=bool(tied),
        dropout=dropout,
        embedding_init=embedding_init or jax.random.normal,
        w_y_init=w_y_init,
        b_y_init=b_y_init,
    )


def require_model_params(model: Any, params: Any) -> None:
    """Refuse anything but a language model and its parameters.

    Raises:
        TypeError: another kind of model, or parameters of another structure.
        ShapeError: a wrong shape.
        DtypeError: parameters that are not all of one floating dtype.
    """
    require_type("model", model, LanguageModel)
    expected = _shapes_of_params(model)
    require_same_structure("params", params, expected)
    require_array("params.b_y", params.b_y)
    dtype = params.b_y.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise DtypeError(f"Dtype mismatch: expected floating params, got {dtype.name} in b_y.")
    require_arrays("params", params, expected, dtype, legend=f"V={model.vocabulary_size}")


def _shapes_of_params(model: LanguageModel) -> LanguageParams:
    """Shapes in place of the parameters; no initialiser is called but those of the stack."""
    size, (inputs, outputs) = (
        model.vocabulary_size,
        (model.stack.input_size, model.stack.output_size),
    )
    shaped: Any = partial(jax.ShapeDtypeStruct, dtype=float)
    return LanguageParams(
        shaped((size, inputs)) if model.embedding else None,
        parameter_shapes(model.stack),
        None if model.tied else shaped((outputs, size)),
        shaped((size,)),
    )


def require_states(
    model: LanguageModel, states: Any, dtype: Any, batch: tuple[int, ...] = ()
) -> None:
    """Refuse states that are not those of the model's stack, for samples of some batch axes.

    Raises:
        ShapeError, DtypeError, TypeError: naming the first leaf that differs.
    """
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((*batch, *leaf.shape), dtype),
        state_shapes(model.stack),
    )
    require_arrays("states", states, like, dtype)


def log_frequency(codes: Int[np.ndarray, "tokens"], vocabulary_size: int) -> Initializer:
    """An initialiser of b_y: the log frequency of each token in a text, log (n_v + 1) / (N + V).

    With it a model begins at the entropy of single tokens. Without it, Adam learns the frequencies first, and
    in a short run the memory units of an LSTM saturate meanwhile.

    Args:
        codes: the text to train on.
        vocabulary_size: V.

    Raises:
        ShapeError: codes that are not one text, [N]; or, when drawn, another size of the readout.
        TypeError: codes that are not whole numbers.
        TextError: codes outside of 0 … V − 1.
        ValueError: no positive V.

    Example:
        >>> import jax, numpy as np
        >>> from lstm_jax.language import log_frequency
        >>> init = log_frequency(np.array([0, 0, 1]), 2)
        >>> print(np.exp(init(jax.random.key(0), (2,))).round(3))
        [0.6 0.4]
    """
    require_positive_int("vocabulary_size", vocabulary_size)
    codes = np.asarray(checked_codes("codes", codes, vocabulary_size, axes="tokens"))
    counts = np.bincount(codes, minlength=vocabulary_size) + 1
    logs = tuple(np.log(counts / counts.sum()).tolist())
    return _LogFrequency(logs)


@dataclass(frozen=True)
class _LogFrequency:
    """Hashable, so that models with equal frequencies are equal, and compile once."""

    logs: tuple[float, ...]

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
        """Return the logs, whatever the key."""
        if shape != (len(self.logs),):
            raise ShapeError(
                f"Shape mismatch: expected a readout of {len(self.logs)} tokens, as many as have a "
                f"frequency, got {show_shape(shape)}."
            )
        return jnp.asarray(self.logs, dtype)


def token_loss(
    model: LanguageModel,
    params: LanguageParams,
    states: tuple[Any, ...] | None,
    inputs: Int[Array, "time *batch"],
    targets: Int[Array, "time *batch"],
    *,
    key: Array | None = None,
    weights: Float[Array, "time *batch"] | None = None,
    backend: str | Loop = "auto",
) -> tuple[Float[Array, ""], tuple[Any, ...]]:
    """Mean negative log-likelihood of the next token, in nats, and the states after the last one.

    Args:
        model: from `language_model`.
        params: of the model.
        states: those before the first token; the starting ones if None.
        inputs: tokens [T] or [T, B].
        targets: the token that follows each, of the same shape.
        key: a random key for dropout, in training; None at evaluation.
        weights: of each target in the mean; all equal if None.
        backend: who runs the recurrent layers, as for `lstm_jax.unroll`.

    Raises:
        ShapeError: tokens of different or other shapes, or weights of another.
        TextError: tokens without a number in the vocabulary, where they are not traced.
        DtypeError, TypeError: tokens that are not whole numbers, params or states of another model, no key.
        ValueError: weights below 0, or all of them 0.
    """
    require_model_params(model, params)
    inputs = checked_codes("inputs", inputs, model.vocabulary_size)
    targets = checked_codes("targets", targets, model.vocabulary_size)
    if inputs.ndim not in (1, 2) or inputs.shape != targets.shape:
        raise ShapeError(
            "Shape mismatch: expected inputs and targets [T] or [T, B] alike, got "
            f"{show_shape(inputs.shape)} and {show_shape(targets.shape)}."
        )
    if weights is not None:
        _require_weights(weights, inputs.shape)
    if key is not None:
        require_key(key)
    keys = (None, None, None) if key is None else jax.random.split(key, 3)
    xs = model.inputs(params, inputs)
    if keys[0] is not None:
        xs = drop(keys[0], model.dropout, xs)
    states, ys = unroll_stack(model.stack, params.stack, xs, states, key=keys[1], backend=backend)
    if keys[2] is not None:
        ys = drop(keys[2], model.dropout, ys)
    losses = optax.softmax_cross_entropy_with_integer_labels(model.logits(params, ys), targets)
    return jnp.average(losses, weights=weights), states


def _require_weights(weights: Any, shape: tuple[int, ...]) -> None:
    """Refuse weights of targets that make no mean."""
    require_array("weights", weights)
    if jnp.shape(weights) != shape:
        raise ShapeError(
            f"Shape mismatch: expected weights {show_shape(shape)}, as the targets, got "
            f"{show_shape(jnp.shape(weights))}."
        )
    if not jnp.issubdtype(weights.dtype, jnp.floating):
        raise DtypeError(
            f"Dtype mismatch: expected weights in floating point, got {weights.dtype.name}."
        )
    require_finite("weights", weights)
    if isinstance(weights, jax.core.Tracer):
        return
    known = np.asarray(weights)
    if known.min() < 0 or not known.any():
        got = f"{known.min()}" if known.min() < 0 else "only zeros"
        raise ValueError(
            f"Range mismatch: expected weights of at least 0, some above it, got {got}."
        )


def nats_per_token(
    model: LanguageModel,
    params: LanguageParams,
    codes: Int[Array, "tokens"] | Int[np.ndarray, "tokens"],
    *,
    batch_size: int = 1,
    length: int = 200,
) -> float:
    """Mean negative log-likelihood of a text, each token given all tokens before it in its row.

    Args:
        model: from `language_model`.
        params: of the model.
        codes: the text.
        batch_size: the number of rows, each read from the starting state. 1 predicts every token but the
            first; more are faster, but leave out the rest of the division.
        length: tokens read at a time; it bounds the memory and changes the result only by rounding.

    Returns:
        Nats: perplexity is its exponential, bits per token it divided by log 2.

    Raises:
        TextError: a text too short for so many rows, or with codes outside of the vocabulary.
        ValueError: a size that is not a positive integer.
        ShapeError, DtypeError, TypeError: codes that are not whole numbers [N], params of another model.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> from lstm_jax.language import language_model, nats_per_token
        >>> net = language_model(lstm_jax.stack(lstm_jax.lstm(8, 16)), 28)
        >>> params = net.init(jax.random.key(0))
        >>> bool(abs(nats_per_token(net, params, jnp.arange(500) % 28) - jnp.log(28)) < 0.5)
        True
    """
    require_positive_int("batch_size", batch_size)
    require_positive_int("length", length)
    require_model_params(model, params)
    codes = jnp.asarray(checked_codes("codes", codes, model.vocabulary_size, axes="tokens"))
    tokens = len(codes) // batch_size
    if tokens < 2:
        raise TextError(
            f"Length mismatch: expected a text of at least {2 * batch_size} tokens for {batch_size} rows, "
            f"got {len(codes)}."
        )
    length = min(length, tokens - 1)
    return float(_nats(model, batch_size, length, params, codes))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _nats(
    model: LanguageModel, batch_size: int, length: int, params: LanguageParams, codes: Array
) -> Array:
    tokens = len(codes) // batch_size
    rows = codes[: tokens * batch_size].reshape(batch_size, tokens).T
    count = tokens - 1
    windows = math.ceil(count / length)
    padding = ((0, windows * length - count), (0, 0))
    inputs, targets = (jnp.pad(part, padding) for part in (rows[:-1], rows[1:]))
    weights = jnp.pad(jnp.ones((count, batch_size)), padding)
    cut = (windows, length, batch_size)

    def window(states: PyTree, at: tuple[Array, Array, Array]) -> tuple[PyTree, Array]:
        inputs, targets, weights = at
        # The last window may be longer than the rest of the text; its padding has weight 0.
        value, states = token_loss(model, params, states, inputs, targets, weights=weights)
        return states, value * weights.sum()

    states = starting_states(model.stack, params.stack, batch_size, params.b_y.dtype)
    parts = (inputs.reshape(cut), targets.reshape(cut), weights.reshape(cut))
    _, sums = jax.lax.scan(window, states, parts)
    return sums.sum() / (count * batch_size)
