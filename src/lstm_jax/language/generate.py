r"""Generate text with a language model, token by token, at once or as it comes.

    token_{t+1} ~ softmax(logits_t / temperature), or argmax logits_t at temperature 0

What is drawn may be limited to the k most probable tokens, and to the fewest that have probability p together
(Holtzman et al. 2020). Token n is drawn with ``fold_in(key, n)``: a shorter text is the beginning of a longer
one, however it is cut into calls. Programs are compiled for prompts and texts of 16, 32, 64, … tokens.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import Array, Int, PyTree
from lstm_jax.language.model import (
    LanguageModel,
    LanguageParams,
    require_model_params,
    require_states,
)
from lstm_jax.language.token_codes import checked_codes
from lstm_jax.layers.stack import starting_states
from lstm_jax.validation import require_key, require_number, require_positive_int

SHORTEST = 16
"""Tokens of the shortest program."""
LONGEST_PIECE = 64
"""Tokens that `stream` computes at once, at most."""

COLDEST = float(np.finfo(np.float32).tiny)
"""The lowest temperature that is not 0 in single precision."""


class Generated(NamedTuple):
    """The generated tokens and the states of the model.

    Attributes:
        tokens: [length], after the prompt.
        states: after the last token but one. To go on, call `generate` with them and the last token as
            prompt.
    """

    tokens: Int[Array, "length"]
    states: tuple[PyTree, ...]


class Limits(NamedTuple):
    """How tokens are drawn, as numbers; whether at all, and whether from a part, is compiled.

    Attributes:
        temperature: of the distribution.
        top_k: so many of the most probable tokens.
        top_p: the fewest most probable tokens that have this probability together.
    """

    temperature: Any
    top_k: Any
    top_p: Any


def generate(
    model: LanguageModel,
    params: LanguageParams,
    prompt: Int[Array, "prompt"] | Int[np.ndarray, "prompt"],
    length: int,
    *,
    states: tuple[Any, ...] | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    key: Array | None = None,
) -> Generated:
    """Read a prompt and continue it.

    Args:
        model: from `language_model`.
        params: of the model.
        prompt: at least one token, read first.
        length: the number of tokens to generate.
        states: those before the prompt; the starting ones if None. With the states of an earlier call and its
            last token as the prompt, the text continues where it stopped.
        temperature: of the distribution; 0 takes the most probable token each time.
        top_k: draw from so many of the most probable tokens; all if None.
        top_p: draw from the fewest most probable tokens that have this probability together; all if None.
        key: a random key; needed unless the temperature is 0.

    Returns:
        `Generated`.

    Raises:
        ValueError: a temperature below 0 or without a key, a length or ``top_k`` below 1, ``top_p`` outside
            of (0, 1], or limits at temperature 0.
        TextError: an empty prompt, or tokens outside of the vocabulary.
        ShapeError, DtypeError, TypeError: a prompt that is not whole numbers [T], params or states of another
            model, or no key.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> from lstm_jax.language import generate, language_model
        >>> net = language_model(lstm_jax.stack(lstm_jax.lstm(8, 16)), 28)
        >>> params = net.init(jax.random.key(0))
        >>> whole = generate(net, params, jnp.array([3, 1]), 6)
        >>> half = generate(net, params, jnp.array([3, 1]), 3)
        >>> rest = generate(net, params, half.tokens[-1:], 3, states=half.states)
        >>> bool((whole.tokens == jnp.concatenate([half.tokens, rest.tokens])).all())
        True
    """
    require_positive_int("length", length)
    begun = _begun(model, params, prompt, states, temperature, top_k, top_p, key)
    return _piece(model, params, begun, begun.prompt, begun.states, 0, length)


def stream(
    model: LanguageModel,
    params: LanguageParams,
    prompt: Int[Array, "prompt"] | Int[np.ndarray, "prompt"],
    length: int | None = None,
    **options: Any,
) -> Iterator[Int[np.ndarray, "piece"]]:
    """The tokens of `generate` as they come, in pieces that grow from 1 to 64.

    Args:
        model: from `language_model`.
        params: of the model.
        prompt: at least one token, read first.
        length: the number of tokens; without an end if None.
        **options: ``states``, ``temperature``, ``top_k``, ``top_p`` and ``key`` of `generate`.

    Returns:
        An iterator of arrays of tokens. Arguments are checked when it is made.

    Raises:
        As `generate`.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> from lstm_jax.language import language_model, stream
        >>> net = language_model(lstm_jax.stack(lstm_jax.lstm(8, 16)), 28)
        >>> params = net.init(jax.random.key(0))
        >>> [len(tokens) for tokens in stream(net, params, jnp.array([3, 1]), 20)]
        [1, 2, 4, 8, 5]
    """
    if length is not None:
        require_positive_int("length", length)
    if unknown := sorted(set(options) - {"states", "temperature", "top_k", "top_p", "key"}):
        raise TypeError(f"Option mismatch: expected the options of generate, got {unknown[0]!r}.")
    defaults: dict[str, Any] = dict(states=None, temperature=0.0, top_k=None, top_p=None, key=None)
    begun = _begun(model, params, prompt, **{**defaults, **options})
    return _pieces(model, params, begun, length)


def _pieces(
    model: LanguageModel, params: LanguageParams, begun: "_Begun", length: int | None
) -> Iterator[np.ndarray]:
    done, size, prompt, states = 0, 1, begun.prompt, begun.states
    while length is None or done < length:
        count = size if length is None else min(size, length - done)
        piece = _piece(model, params, begun, prompt, states, done, count)
        tokens = np.asarray(piece.tokens)
        yield tokens
        done, prompt, states = done + count, tokens[-1:], piece.states
        size = min(2 * size, LONGEST_PIECE)


class _Begun(NamedTuple):
    """Checked arguments."""

    prompt: Any
    states: Any
    drawn: bool
    limited: bool
    limits: Limits
    key: Array


def _begun(
    model: LanguageModel,
    params: LanguageParams,
    prompt: Any,
    states: Any,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    key: Array | None,
) -> _Begun:
    require_model_params(model, params)
    prompt = checked_codes("prompt", prompt, model.vocabulary_size, axes="tokens", least=1)
    if prompt.dtype.itemsize < 4:
        prompt = prompt.astype(np.int32)  # it holds every token, not those of the prompt alone
    require_number("temperature", temperature, least=0)
    if top_k is not None:
        require_positive_int("top_k", top_k)
    if top_p is not None:
        require_number("top_p", top_p)
        if not 0 < top_p <= 1:
            raise ValueError(f"Range mismatch: expected top_p above 0 and up to 1, got {top_p!r}.")
    limited = top_k is not None or top_p is not None
    if limited and not temperature:
        raise ValueError(
            "Option mismatch: expected top_k and top_p with a temperature above 0, got 0, which takes the "
            "most probable token."
        )
    if temperature and key is None:
        raise ValueError(
            f"Key mismatch: expected a key to draw at temperature {temperature!r}, got None."
        )
    if key is not None:
        require_key(key)
    dtype = params.b_y.dtype
    if states is None:
        states = starting_states(model.stack, params.stack, None, dtype)
    require_states(model, states, dtype)
    limits = Limits(
        np.float32(max(temperature, COLDEST) if temperature else 1.0),
        np.int32(min(top_k or model.vocabulary_size, model.vocabulary_size)),
        np.float32(1.0 if top_p is None else top_p),
    )
    key = jax.random.key(0) if key is None else key
    return _Begun(prompt, states, temperature > 0, limited, limits, key)


def _piece(
    model: LanguageModel,
    params: LanguageParams,
    begun: _Begun,
    prompt: Any,
    states: Any,
    first: int,
    length: int,
) -> Generated:
    """``length`` tokens after a prompt, of which the first is token ``first`` of the text."""
    size, count = _padded_size(length), np.shape(prompt)[0]
    traced = isinstance(prompt, jax.core.Tracer)
    padding = (0, _padded_size(count) - count)
    prompt = jnp.pad(prompt, padding) if traced else np.pad(np.asarray(prompt), padding)
    found = _generate(
        model,
        size,
        (begun.drawn, begun.limited),
        params,
        states,
        prompt,
        np.int32(count),
        np.int32(first),
        np.int32(length),
        begun.limits,
        begun.key,
    )
    tokens = found.tokens
    # Not by JAX where the numbers are there: it would compile a slice of each length.
    known = not isinstance(tokens, jax.core.Tracer)
    tokens = jnp.asarray(np.asarray(tokens)[:length]) if known else tokens[:length]
    return found._replace(tokens=tokens)


def _padded_size(count: int) -> int:
    return max(SHORTEST, 1 << (count - 1).bit_length())


@partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(
    model: LanguageModel,
    size: int,
    drawing: tuple[bool, bool],
    params: LanguageParams,
    states: Any,
    prompt: Array,
    count: Array,
    first: Array,
    length: Array,
    limits: Limits,
    key: Array,
) -> Generated:
    drawn, limited = drawing

    def read(n: Array, states: Any) -> Any:
        return model.step(params, states, prompt[n])[0]

    def write(n: Array, carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        states, token, tokens = carry
        states, logits = model.step(params, states, token)
        if drawn:
            # In single precision at least, and of the largest: others overflow to −∞, which is their limit.
            logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
            logits = (logits - jnp.max(logits)) / limits.temperature.astype(logits.dtype)
            if limited:
                logits = _within(limits, logits)
            token = jax.random.categorical(jax.random.fold_in(key, first + n), logits)
        else:
            token = jnp.argmax(logits, axis=-1)
        token = token.astype(prompt.dtype)
        return states, token, tokens.at[n].set(token)

    states = jax.lax.fori_loop(0, count - 1, read, states)
    start = (states, prompt[count - 1], jnp.zeros(size, prompt.dtype))
    states, _, tokens = jax.lax.fori_loop(0, length, write, start)
    return Generated(tokens, states)


def _within(limits: Limits, logits: Array) -> Array:
    """−∞ for tokens beyond the limits; the most probable one always stays, and what is equal to the last."""
    ranked = jnp.sort(logits, descending=True)
    probability = jax.nn.softmax(ranked)
    # The probability of all tokens before, so that the one that passes p stays.
    before = jnp.cumsum(probability) - probability
    inside = (jnp.arange(len(ranked)) < limits.top_k) & (before < limits.top_p.astype(before.dtype))
    lowest = jnp.min(jnp.where(inside, ranked, ranked[0]))
    return jnp.where(logits < lowest, -jnp.inf, logits)
