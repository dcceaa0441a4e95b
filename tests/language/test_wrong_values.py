"""Wrong values at the border of the room of language: codes, texts, models, parameters, options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from wrong_values import KEY, Tensor, cases, require_refused

import lstm_jax
from lstm_jax import language
from lstm_jax.language import contiguous
from lstm_jax.language.corpora import letters
from lstm_jax.training import init_state, train_step

pytestmark = pytest.mark.usefixtures("without_type_checker")

TEXT = "the time machine"
VOCABULARY = language.character_vocabulary(TEXT)
CODES, V = VOCABULARY.encode(TEXT * 4), VOCABULARY.size
STACK = lstm_jax.stack(lstm_jax.rnn(V, 4))
NET = language.language_model(STACK, V, embedding=False)
PARAMS = NET.init(KEY)
OTHER = language.language_model(lstm_jax.stack(lstm_jax.rnn(5, 4)), V)
STATES = STACK.initial_state()
INPUTS, TARGETS = CODES[:6], CODES[1:7]

NO_ARRAY = ["abc", None, object(), Tensor(), [[1, 2], [3]]]
OF_OTHER_DTYPES = [[1.5, 2.0], np.array([True, False]), np.array(["a"]), jnp.ones(6)]
WITHOUT_TOKEN = [np.array([0, V + 5]), np.array([-1, 2]), np.array([2**33, 1]), jnp.array([0, V])]
WRONG = {
    "codes": [*NO_ARRAY, *OF_OTHER_DTYPES, *WITHOUT_TOKEN, np.zeros((2, 3), int)],
    "token": [*NO_ARRAY, *OF_OTHER_DTYPES, *WITHOUT_TOKEN, 1.5, V, -1],
    "tokens of unknown size": [
        *NO_ARRAY,
        *OF_OTHER_DTYPES,
        *WITHOUT_TOKEN[1:3],
        np.zeros((2, 3), int),
    ],
    "model": [None, "lstm", STACK, lstm_jax.rnn(V, 4), PARAMS, 3],
    "params": [
        None,
        {},
        "w",
        tuple(PARAMS),
        PARAMS.stack,
        OTHER.init(KEY),
        PARAMS._replace(b_y=None),
        PARAMS._replace(b_y=Tensor()),
        PARAMS._replace(stack=None),
        PARAMS._replace(w_y=jnp.ones((4, V + 1))),
        PARAMS._replace(b_y=PARAMS.b_y.astype(jnp.bfloat16)),
        jax.tree.map(lambda leaf: leaf.astype(int), PARAMS),
    ],
    "states": [
        "s",
        3,
        (),
        STATES[0],
        (lstm_jax.LSTMState(jnp.ones(4), jnp.ones(4)),),
        (lstm_jax.RNNState(None),),
        STACK.initial_state(2),
        STACK.initial_state(dtype=jnp.bfloat16),
    ],
    "weights": [
        "abc",
        3.0,
        Tensor(),
        jnp.ones(6, jnp.complex64),
        jnp.ones(3),
        jnp.ones((6, 1)),
        np.full(6, np.nan, np.float32),
        np.zeros(6, np.float32),
        -np.ones(6, np.float32),
    ],
}


def cut(codes, step, key):
    return contiguous(codes, step, 2, 5)


def problem(model=NET, batch=cut, batch_size=2, **options):
    return language.language_problem(model, batch, batch_size, **options)


def of_tokens(**fields):
    vocabulary = language.Vocabulary(**{"tokens": ("a", "b")} | fields)
    return vocabulary.encode("ab"), vocabulary.decode([0, 1])


def trained(**given):
    """One step of the problem, traced."""
    made, optimizer = problem(**given), optax.sgd(0.1)
    step = train_step(made, optimizer)
    return jax.eval_shape(lambda codes: step(init_state(made, optimizer, 0), codes)[1], CODES)


def changed(**fields):
    return lambda codes, step, key: cut(codes, step, key)._replace(**fields)


LOSS = {"model": NET, "params": PARAMS, "states": None, "inputs": INPUTS, "targets": TARGETS}
ENTRIES = [
    (
        language.windows,
        {"key": KEY, "codes": CODES, "length": 5, "batch_size": 2},
        {
            "key": "key",
            "codes": [
                *NO_ARRAY,
                *OF_OTHER_DTYPES,
                *WITHOUT_TOKEN[1:3],
                np.zeros((2, 6), int),
                [1, 2],
            ],
            "length": [0, 2.5, True, None, len(CODES) + 1, 10**6],
            "batch_size": "size",
        },
    ),
    (
        contiguous,
        {"codes": CODES, "step": 0, "batch_size": 2, "length": 5},
        {
            "codes": "tokens of unknown size",
            "step": [-1, 2.5, True, "3", None, 2**70, [3], np.array([1, 2]), Tensor()],
        },
    ),
    (
        language.contiguous_from_offset,
        {"codes": CODES, "step": 0, "batch_size": 2, "length": 5, "key": KEY},
        {"codes": "tokens of unknown size", "step": "count", "key": "key"},
    ),
    (
        language.one_hot,
        {"codes": CODES[:5], "size": V, "dtype": float},
        {"codes": "token", "size": "size", "dtype": "dtype"},
    ),
    (language.character_vocabulary, {"text": TEXT}, {"text": [None, 3, b"abc", "", ["a"]]}),
    (language.frequency_vocabulary, {"text": TEXT}, {"text": "text", "kind": "option"}),
    (language.words, {"text": TEXT}, {"text": "text"}),
    (letters, {"text": TEXT}, {"text": "text"}),
    (VOCABULARY.encode, {"text": TEXT}, {"text": [None, 3, b"abc", "Q", {"a": 1}, ["a", 3]]}),
    (VOCABULARY.decode, {"codes": [0, 1]}, {"codes": "codes"}),
    (
        of_tokens,
        {},
        {
            "tokens": [3, None, "ab", ("a", 3), ("a", "a"), ()],
            "unknown": [5, -1, "x", True],
            "kind": "option",
        },
    ),
    (language.encode, {"text": TEXT, "name": "x"}, {"text": "text", "name": [3, None, ["x"]]}),
    (language.read_text, {"path": __file__}, {"path": "path"}),
    (language.load_corpus, {"name": __file__}, {"name": "path"}),
    *[
        (
            lambda of=form, **o: language.language_model(
                lstm_jax.stack(lstm_jax.rnn(3, 3)), V, **{"tied": of == "tied"} | o
            ).init(KEY),
            {},
            dict.fromkeys(names, "initialiser"),
        )
        for form, names in (
            ("plain", ("embedding_init", "w_y_init", "b_y_init")),
            ("tied", ("embedding_init",)),
        )
    ],
    (NET.init, {"key": KEY}, {"key": "key", "dtype": "dtype"}),
    (
        NET.step,
        {"params": PARAMS, "states": STATES, "token": 1},
        {"params": "params", "states": "states", "token": "token"},
    ),
    (NET.inputs, {"params": PARAMS, "tokens": [1]}, {"params": "params", "tokens": "token"}),
    (
        NET.logits,
        {"params": PARAMS, "ys": jnp.ones((3, 4))},
        {"params": "params", "ys": ["a", None, Tensor(), jnp.ones((3, 5)), jnp.ones((3, 4), int)]},
    ),
    (
        language.generate,
        {"model": NET, "params": PARAMS, "prompt": [1], "length": 2},
        {
            "model": "model",
            "params": "params",
            "states": "states",
            "prompt": [*NO_ARRAY, *OF_OTHER_DTYPES, *WITHOUT_TOKEN, []],
            "length": "size",
            "temperature": ["x", np.nan, np.inf, -1.5, True, None, [0.1], 1j, 1.0],
            "key": [0, "k", jax.random.split(KEY, 3)],
        },
    ),
    (
        language.token_loss,
        LOSS,
        {
            "model": "model",
            "params": "params",
            "states": "states",
            "inputs": "codes",
            "targets": "codes",
            "weights": "weights",
            "key": [0, "k", jax.random.split(KEY, 3)],
            "backend": "option",
        },
    ),
    (
        language.nats_per_token,
        {"model": NET, "params": PARAMS, "codes": CODES},
        {
            "model": "model",
            "params": "params",
            "codes": [*NO_ARRAY, *OF_OTHER_DTYPES, *WITHOUT_TOKEN, []],
            "batch_size": "size",
            "length": "size",
        },
    ),
    (language.log_frequency, {"codes": CODES, "vocabulary_size": V}, {"codes": "codes"}),
    (
        problem,
        {},
        {
            "model": "model",
            "batch": "function",
            "batch_size": "size",
            "init": [3, "f", lambda: 0],
            "loss": "option",
            "compute_dtype": "dtype",
            "backend": "option",
        },
    ),
    (
        trained,
        {},
        {
            "batch": [
                lambda codes, step, key: None,
                lambda codes, step, key: codes,
                lambda codes, step, key: tuple(cut(codes, step, key)),
                lambda codes, step, key: contiguous(codes, step, 3, 5),
                changed(first=3.0),
                changed(first=jnp.ones(2, bool)),
                changed(inputs=None),
                changed(inputs=jnp.ones((5, 2))),
                changed(targets=jnp.ones((5, 2))),
            ],
            "init": [lambda key: None, lambda key: OTHER.init(key), lambda key: PARAMS.stack],
            "compute_dtype": [jnp.bfloat16],
        },
    ),
]


@pytest.mark.parametrize(("call", "given"), [entry[:2] for entry in ENTRIES])
def test_the_right_values_pass(call, given):
    call(**given)


@pytest.mark.parametrize(("call", "given", "name", "value"), cases(ENTRIES, WRONG))
def test_a_wrong_value_is_refused(call, given, name, value):
    require_refused(call, given, name, value)


def test_codes_of_a_trace_cost_nothing_and_are_taken():
    loss = jax.jit(lambda inputs: language.token_loss(NET, PARAMS, None, inputs, inputs)[0])
    assert jnp.isfinite(loss(jnp.array(INPUTS)))


def test_the_windows_of_a_text_of_their_own_length_are_the_text():
    found = language.windows(KEY, CODES, len(CODES), 2)
    np.testing.assert_array_equal(found, np.stack([CODES, CODES], 1))
