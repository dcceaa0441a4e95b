"""Language models against loops over single steps: loss, perplexity of a text, generation, carried states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from lstm_jax.language import (
    Batch,
    contiguous,
    generate,
    language_model,
    language_problem,
    nats_per_token,
    token_loss,
)

V = 7


def by_rows(codes, step, key):
    return contiguous(codes, step, 2, 4)


FORMS = {
    "one-hot": {"embedding": False},
    "embedded": {},
    "tied": {"tied": True},
}


def model(form="embedded", layers=2, **options):
    first = V if form == "one-hot" else 5
    cells = [lstm_jax.gru(first, 5), *[lstm_jax.rnn(5, 5)] * (layers - 1)]
    options = FORMS[form] | options
    dropout = options.pop("between", 0.0)
    return language_model(lstm_jax.stack(*cells, dropout=dropout), V, **options)


def text(length, seed=0):
    return np.random.default_rng(seed).integers(0, V, length).astype(np.int32)


def by_steps(net, params, states, inputs, targets):
    """Negative log-likelihoods, token by token, with NumPy's softmax."""
    states = net.stack.initial_state(None, params.b_y.dtype) if states is None else states
    step, found = jax.jit(net.step), []
    for token, target in zip(inputs, targets, strict=True):
        states, logits = step(params, states, jnp.asarray(token))
        logits = np.asarray(logits, np.float64)
        found.append(np.log(np.exp(logits).sum()) - logits[target])
    return np.array(found), states


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_the_mean_over_steps_taken_one_by_one(x64, form):
    net = model(form)
    params = net.init(jax.random.key(0))
    tokens = text(24).reshape(8, 3)
    value, states = jax.jit(token_loss, static_argnums=0)(
        net, params, None, jnp.asarray(tokens[:-1]), jnp.asarray(tokens[1:])
    )
    expected = [by_steps(net, params, None, row[:-1], row[1:]) for row in tokens.T]
    np.testing.assert_allclose(value, np.mean([e[0] for e in expected]), rtol=1e-12)
    for b in range(3):
        np.testing.assert_allclose(states[1].h[b], expected[b][1][1].h, rtol=1e-12)


def test_the_readout_is_the_embedding_where_the_weights_are_tied():
    net = model("tied")
    params = net.init(jax.random.key(0))
    assert params.w_y is None
    y = jnp.arange(5.0)
    np.testing.assert_allclose(net.logits(params, y), params.embedding @ y, rtol=1e-6)
    untied = model("one-hot").init(jax.random.key(0))
    assert untied.embedding is None and untied.w_y.shape == (5, V)


@pytest.mark.parametrize(
    ("batch_size", "length"), [(1, 200), (1, 28), (1, 7), (1, 10), (1, 1), (3, 4), (4, 100)]
)
def test_a_text_is_read_whole_whatever_the_window(x64, batch_size, length):
    net = model()
    params = net.init(jax.random.key(1))
    codes = text(29)
    came = nats_per_token(net, params, codes, batch_size=batch_size, length=length)
    size = len(codes) // batch_size
    rows = [codes[b * size : (b + 1) * size] for b in range(batch_size)]
    expected = np.mean([by_steps(net, params, None, r[:-1], r[1:])[0] for r in rows])
    np.testing.assert_allclose(came, expected, rtol=1e-6)


def test_a_learned_starting_state_is_where_a_text_begins():
    net = language_model(lstm_jax.stack(lstm_jax.rnn(5, 5), learned_state=True), V)
    params = net.init(jax.random.key(1))
    started = params._replace(stack=params.stack._replace(state0=(lstm_jax.RNNState(jnp.ones(5)),)))
    codes = text(12)
    expected, _ = by_steps(net, started, started.stack.state0, codes[:-1], codes[1:])
    np.testing.assert_allclose(nats_per_token(net, started, codes), expected.mean(), rtol=1e-5)
    assert generate(net, started, codes[:2], 3).tokens.shape == (3,)


def test_the_most_probable_token_is_written_each_time():
    net = model()
    params = net.init(jax.random.key(2))
    states, logits, expected = net.stack.initial_state(), None, []
    step = jax.jit(net.step)
    for token in (3, 1, 4):
        states, logits = step(params, states, jnp.int32(token))
    for _ in range(8):
        expected.append(int(np.argmax(logits)))
        states, logits = step(params, states, jnp.int32(expected[-1]))
    came = generate(net, params, jnp.array([3, 1, 4], jnp.int32), 8)
    assert came.tokens.tolist() == expected


def test_what_is_drawn_has_the_distribution_of_the_temperature():
    net = model(layers=1)
    params = net.init(jax.random.key(3))
    params = params._replace(b_y=jnp.linspace(-1.0, 1.0, V))
    prompt = jnp.array([2], jnp.int32)
    _, logits = net.step(params, net.stack.initial_state(), prompt[0])
    for temperature in (0.5, 2.0):
        expected = np.asarray(jax.nn.softmax(logits / temperature))
        keys = jax.random.split(jax.random.key(0), 4000)
        drawn = jax.vmap(
            lambda key, t=temperature: generate(
                net, params, prompt, 1, temperature=t, key=key
            ).tokens[0]
        )(keys)
        share = np.bincount(np.asarray(drawn), minlength=V) / 4000
        # Five standard errors of a share.
        assert (abs(share - expected) < 5 * np.sqrt(expected / 4000)).all()


def test_states_are_carried_and_begin_anew_where_an_epoch_does(x64):
    net, codes = model(), jnp.asarray(text(2 * 9))
    problem = language_problem(net, lambda c, s, k: contiguous(c, s, 2, 4), 2)
    params, carry, key = net.init(jax.random.key(0)), problem.carry(), jax.random.key(9)
    loss = jax.jit(problem.loss)
    found = []
    for step in (0, 1, 2):
        value, (carry, more) = loss(params, carry, problem.batch(codes, jnp.int32(step), key), key)
        assert float(value) == float(more["nats"])
        found.append(float(value))
    rows = np.asarray(codes).reshape(2, 9)
    whole = np.mean([by_steps(net, params, None, r[:8], r[1:9])[0] for r in rows], axis=0)
    np.testing.assert_allclose(found[:2], [whole[:4].mean(), whole[4:].mean()], rtol=1e-12)
    assert found[2] == found[0] != found[1]


def test_the_sum_over_time_is_t_times_the_mean():
    net, key = model(), jax.random.key(0)
    batch = Batch(*(jnp.asarray(text(8, n).reshape(4, 2)) for n in (0, 1)), jnp.bool_(True))
    params, found = net.init(key), []
    for loss in ("mean", "time_sum"):
        problem = language_problem(net, lambda c, s, k: batch, 2, loss=loss)
        value, (_, more) = jax.jit(problem.loss)(params, problem.carry(), batch, key)
        found.append((float(value), float(more["nats"])))
    np.testing.assert_allclose(found[1], [4 * found[0][0], found[0][1]], rtol=1e-6)


def test_dropout_acts_on_inputs_between_layers_and_on_outputs_and_only_with_a_key():
    key, tokens = jax.random.key(0), jnp.asarray(text(40).reshape(8, 5))
    plain = model()
    params = plain.init(key)
    value = token_loss(plain, params, None, tokens, tokens)[0]
    for options in ({"dropout": 0.5}, {"between": 0.5}):
        net = model(**options)
        assert token_loss(net, params, None, tokens, tokens)[0] == value
        drawn = {
            float(token_loss(net, params, None, tokens, tokens, key=k)[0])
            for k in jax.random.split(key, 3)
        }
        assert len(drawn) == 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: language_model(lstm_jax.rnn(3, 3), V), TypeError, "expected a stack, got Cell"),
        (lambda: model("one-hot", embedding=True, tied=True), ValueError, "equal input and output"),
        (lambda: model("embedded", embedding=False), ValueError, "input size 7, the vocabulary's"),
        (lambda: model(dropout=1.0), ValueError, "dropout from 0 to below 1"),
        (
            lambda: language_model(lstm_jax.stack(lstm_jax.bidirectional(lstm_jax.rnn(3, 3))), V),
            TypeError,
            "runs forward",
        ),
        (
            lambda: language_problem(
                language_model(lstm_jax.stack(lstm_jax.rnn(3, 3), learned_state=True), V),
                by_rows,
                2,
            ),
            ValueError,
            "learned_state",
        ),
        (lambda: language_problem(model(), by_rows, 2, loss="sum"), ValueError, "loss"),
    ],
)
def test_models_that_cannot_be_are_refused(without_type_checker, make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1.0}, "temperature as a finite number of at least 0"),
        ({"temperature": 1.0}, "expected a key to draw"),
        ({"length": 0}, "length"),
        ({"prompt": jnp.zeros((0,), jnp.int32)}, "prompt of at least 1 token, got 0"),
        ({"prompt": jnp.zeros((2, 1), jnp.int32)}, r"expected prompt \[tokens\], got \[2, 1\]"),
    ],
)
def test_what_cannot_be_generated_is_refused(without_type_checker, change, message):
    net = model(layers=1)
    words = {"prompt": jnp.array([1]), "length": 3} | change
    with pytest.raises(ValueError, match=message):
        generate(net, net.init(jax.random.key(0)), **words)


def test_texts_that_are_too_short_or_do_not_fit_are_refused(without_type_checker):
    net = model(layers=1)
    params = net.init(jax.random.key(0))
    with pytest.raises(ValueError, match="at least 6 tokens for 3 rows, got 5"):
        nats_per_token(net, params, text(5), batch_size=3)
    with pytest.raises(lstm_jax.ShapeError, match=r"\[T\] or \[T, B\] alike, got \[3\] and \[4\]"):
        token_loss(net, params, None, jnp.asarray(text(3)), jnp.asarray(text(4)))


class TestLogFrequency:
    def test_is_its_formula(self):
        codes, size = np.array([3, 0, 3, 3, 1]), 5
        found = lstm_jax.language.log_frequency(codes, size)(jax.random.key(0), (size,))
        expected = [np.log((np.sum(codes == v) + 1) / (len(codes) + size)) for v in range(size)]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        np.testing.assert_allclose(np.exp(found).sum(), 1, rtol=1e-6)

    def test_a_text_of_nothing_is_uniform(self):
        init = lstm_jax.language.log_frequency(np.array([], int), 4)
        np.testing.assert_allclose(init(jax.random.key(0), (4,)), [-np.log(4)] * 4, rtol=1e-6)

    def test_dtype_and_shape_are_those_asked_for_and_the_key_is_none(self):
        init = lstm_jax.language.log_frequency(np.array([0, 1, 1]), 2)
        found = init(jax.random.key(0), (2,), jnp.bfloat16)
        assert found.dtype == jnp.bfloat16 and found.shape == (2,)
        np.testing.assert_array_equal(found, init(jax.random.key(1), (2,), jnp.bfloat16))

    def test_equal_frequencies_are_equal(self):
        make = lstm_jax.language.log_frequency
        one, same, other = (make(np.array(codes), 3) for codes in ([0, 1], [1, 0], [1, 1]))
        assert one == same != other and hash(one) == hash(same)

    @pytest.mark.parametrize(
        ("codes", "size", "message"),
        [
            ([0, 3], 3, "expected codes from 0 to 2, got 3"),
            ([-1, 2], 3, "expected codes from 0 to 2, got -1"),
            ([0], 0, "expected vocabulary_size to be a positive integer, got 0"),
        ],
    )
    def test_refusals(self, codes, size, message):
        with pytest.raises(ValueError, match=message):
            lstm_jax.language.log_frequency(np.array(codes), size)

    def test_what_is_no_text_and_another_readout_are_refused(self, without_type_checker):
        make = lstm_jax.language.log_frequency
        with pytest.raises(lstm_jax.ShapeError, match=r"expected codes \[tokens\], got \[1, 2\]"):
            make(np.array([[0, 1]]), 2)
        with pytest.raises(TypeError, match="expected codes as whole numbers, got float64"):
            make(np.array([0.0, 1.0]), 2)
        with pytest.raises(
            lstm_jax.ShapeError, match=r"expected a readout of 2 tokens.* got \[3\]"
        ):
            make(np.array([0, 1]), 2)(jax.random.key(0), (3,))
