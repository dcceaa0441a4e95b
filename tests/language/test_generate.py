"""Texts that are generated at once, in pieces, and from a part of the vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import lstm_jax
from lstm_jax.language import generate, language_model, stream
from lstm_jax.language.generate import Limits, _generate, _within

NET = language_model(lstm_jax.stack(lstm_jax.lstm(4, 5)), 9)
PARAMS = jax.tree.map(lambda leaf: 3 * leaf, NET.init(jax.random.key(0)))
PROMPT, KEY = jnp.array([3, 1]), jax.random.key(1)
OPTIONS = {
    "most probable": {},
    "drawn": {"temperature": 1.0, "key": KEY},
    "limited": {"temperature": 1.5, "top_k": 4, "top_p": 0.9, "key": KEY},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_stream_is_the_same_text(name):
    whole = generate(NET, PARAMS, PROMPT, 40, **OPTIONS[name]).tokens
    pieces = list(stream(NET, PARAMS, PROMPT, 40, **OPTIONS[name]))
    assert [len(piece) for piece in pieces] == [1, 2, 4, 8, 16, 9]
    assert_array_equal(np.concatenate(pieces), whole)
    endless = stream(NET, PARAMS, PROMPT, **OPTIONS[name])
    assert_array_equal(np.concatenate([next(endless) for _ in range(4)]), whole[:15])


def test_a_shorter_text_is_the_beginning_of_a_longer_one():
    whole = generate(NET, PARAMS, PROMPT, 33, **OPTIONS["drawn"]).tokens
    for length in (1, 16, 17):
        assert_array_equal(
            generate(NET, PARAMS, PROMPT, length, **OPTIONS["drawn"]).tokens, whole[:length]
        )


def test_few_programs_serve_all_lengths():
    _generate.clear_cache()
    for length in range(1, 17):
        generate(NET, PARAMS, jnp.arange(1 + length % 9), length)
    assert _generate._cache_size() == 1
    generate(NET, PARAMS, PROMPT, 17)
    assert _generate._cache_size() == 2
    # Numbers of the draw are no reason to compile.
    for temperature, k in ((0.5, 2), (0.7, 3)):
        generate(NET, PARAMS, PROMPT, 2, temperature=temperature, top_k=k, key=KEY)
    assert _generate._cache_size() == 3


def test_the_padding_of_a_prompt_is_not_read():
    """By the model step by step."""
    states = NET.stack.initial_state()
    for token in (3, 1):
        states, logits = NET.step(PARAMS, states, jnp.int32(token))
    assert int(generate(NET, PARAMS, PROMPT, 1).tokens[0]) == int(jnp.argmax(logits))


def test_tokens_that_the_dtype_of_the_prompt_does_not_hold():
    model = language_model(lstm_jax.stack(lstm_jax.lstm(4, 5)), 300)
    params = model.init(jax.random.key(0))
    params = params._replace(b_y=params.b_y.at[290].set(50.0))
    prompt = np.array([3], np.int8)
    assert generate(model, params, prompt, 3).tokens.tolist() == [290] * 3
    assert np.concatenate(list(stream(model, params, prompt, 3))).tolist() == [290] * 3


@pytest.mark.parametrize(
    ("dtype", "temperature"), [("f", 1e-38), ("f", 1e-60), ("bfloat16", 1e-38)]
)
def test_the_coldest_draw_is_the_most_probable_token(dtype, temperature):
    """Two large logits and a wide gap: divided by the temperature alone both are infinite."""
    params = PARAMS._replace(w_y=0 * PARAMS.w_y, b_y=jnp.arange(9.0))
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    cold = generate(NET, params, PROMPT, 3, temperature=temperature, key=KEY)
    assert cold.tokens.tolist() == [8] * 3


def test_limits():
    logits = jnp.log(jnp.array([0.1, 0.4, 0.05, 0.25, 0.2]))

    def kept(k=5, p=1.0):
        found = _within(Limits(np.float32(1), np.int32(k), np.float32(p)), logits)
        return sorted(np.flatnonzero(np.isfinite(found)).tolist())

    assert kept() == [0, 1, 2, 3, 4]
    assert kept(k=1) == [1] and kept(k=3) == [1, 3, 4]
    assert kept(p=0.01) == [1] and kept(p=0.41) == [1, 3] and kept(p=0.66) == [1, 3, 4]
    assert kept(k=2, p=0.9) == [1, 3]


def test_the_most_probable_token_alone():
    most = generate(NET, PARAMS, PROMPT, 12).tokens
    for limit in ({"top_k": 1}, {"top_p": 1e-6}):
        drawn = generate(NET, PARAMS, PROMPT, 12, temperature=2.0, key=KEY, **limit).tokens
        assert_array_equal(drawn, most)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0, "temperature": 1.0, "key": KEY}, "top_k"),
        ({"top_p": 0.0, "temperature": 1.0, "key": KEY}, "expected top_p above 0 and up to 1"),
        ({"top_p": 1.5, "temperature": 1.0, "key": KEY}, "expected top_p above 0 and up to 1"),
        ({"top_k": 2}, "expected top_k and top_p with a temperature above 0"),
        ({"temperature": 1.0}, "expected a key to draw"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(without_type_checker, options, message):
    for function in (generate, stream):
        with pytest.raises(ValueError, match=message):
            function(NET, PARAMS, PROMPT, 3, **options)
