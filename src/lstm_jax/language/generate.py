r"""Generate text with a language model, token by token.

token_{t+1} ~ softmax(logits_t / temperature), or argmax logits_t at temperature 0
"""

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


class Generated(NamedTuple):
    """The generated tokens and the states of the model.

    Attributes:
        tokens: [length], after the prompt.
        states: after the last token but one. To go on, call `generate` with them and the last token as
            prompt.
    """

    tokens: Int[Array, "length"]
    states: tuple[PyTree, ...]


def generate(
    model: LanguageModel,
    params: LanguageParams,
    prompt: Int[Array, "prompt"] | Int[np.ndarray, "prompt"],
    length: int,
    *,
    states: tuple[Any, ...] | None = None,
    temperature: float = 0.0,
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
        key: a random key; needed unless the temperature is 0.

    Returns:
        `Generated`.

    Raises:
        ValueError: a temperature below 0 or without a key, a length below 1.
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
    require_model_params(model, params)
    prompt = jnp.asarray(
        checked_codes("prompt", prompt, model.vocabulary_size, axes="tokens", least=1)
    )
    require_number("temperature", temperature, least=0)
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
    drawn = temperature > 0
    key = jax.random.key(0) if key is None else key
    return _generate(
        model, length, drawn, params, states, prompt, jnp.float32(temperature or 1.0), key
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(
    model: LanguageModel,
    length: int,
    drawn: bool,
    params: LanguageParams,
    states: Any,
    prompt: Array,
    temperature: Array,
    key: Array,
) -> Generated:
    def read(states: Any, token: Array) -> tuple[Any, None]:
        return model.step(params, states, token)[0], None

    def write(carry: tuple[Any, Array], key: Array) -> tuple[tuple[Any, Array], Array]:
        states, token = carry
        states, logits = model.step(params, states, token)
        if drawn:
            token = jax.random.categorical(key, logits / temperature.astype(logits.dtype))
        else:
            token = jnp.argmax(logits, axis=-1)
        token = token.astype(prompt.dtype)
        return (states, token), token

    states, _ = jax.lax.scan(read, states, prompt[:-1])
    start = (states, prompt[-1])
    (states, _), tokens = jax.lax.scan(write, start, jax.random.split(key, length))
    return Generated(tokens, states)
