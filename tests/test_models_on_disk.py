"""Networks on disk: what is loaded is what was saved, out of a file or out of the folder of a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from comparison import assert_close

import lstm_jax
from lstm_jax import language, training, weights
from lstm_jax.weights.safetensors import read_stored

LSTM = lstm_jax.lstm(3, 4)
STACK = lstm_jax.stack(
    lstm_jax.bidirectional(LSTM), lstm_jax.gru(8, 4), dropout=0.2, zoneout=0.1, output_size=2
)
VOCABULARY = language.frequency_vocabulary("abcab\ud800")
MODEL = language.language_model(lstm_jax.stack(lstm_jax.lstm(6, 6)), 5, tied=True, dropout=0.5)
NETS = {
    "cell": LSTM,
    "own options": lstm_jax.rnn(3, 4, activation="relu"),
    "layer": lstm_jax.bidirectional(LSTM),
    "backward": lstm_jax.backward(LSTM),
    "stack": STACK,
    "tied": language.language_model(lstm_jax.stack(lstm_jax.lstm(6, 6)), 5, tied=True, dropout=0.5),
    "one-hot": language.language_model(lstm_jax.stack(lstm_jax.gru(5, 6)), 5, embedding=False),
    "embedded": language.language_model(lstm_jax.stack(lstm_jax.rnn(3, 6)), 5),
}


@pytest.mark.parametrize("name", NETS)
def test_what_is_loaded_is_what_was_saved(name, tmp_path):
    net = NETS[name]
    assert lstm_jax.from_description(json.loads(json.dumps(lstm_jax.describe(net)))) == net
    params = net.init(jax.random.key(1))
    vocabulary = VOCABULARY if hasattr(net, "vocabulary_size") else None
    arrays = {"mean": np.ones(3), "count": np.arange(2)}
    lstm_jax.save(tmp_path / "m", net, params, vocabulary=vocabulary, arrays=arrays)
    model = lstm_jax.load(str(tmp_path / "m"))
    assert (model.net, model.vocabulary) == (net, vocabulary)
    assert jax.tree.structure(model.params) == jax.tree.structure(params)
    assert_close(model.params, params, 0)
    assert {n: (a.dtype, a.tolist()) for n, a in model.arrays.items()} == {
        n: (a.dtype, a.tolist()) for n, a in arrays.items()
    }


def test_the_file_of_a_year_ago_is_read(tmp_path):
    """Version 1 of the format, written out by hand: what reads it must go on to read it."""
    w = {"w_x": np.ones((1, 2), "f"), "w_h": np.eye(2, dtype="f"), "b": np.zeros(2, "f")}
    said = {
        "format": "lstm_jax",
        "version": "1",
        "gate_order": '{"lstm": "ifgo", "lstm with coupled gates": "fgo", "peepholes": "ifo", "gru": "run"}',
        "net": '{"kind": "rnn", "input_size": 1, "hidden_size": 2}',
    }
    (tmp_path / "m").write_bytes(safetensors.numpy.save(w, said))
    model = lstm_jax.load(tmp_path / "m")
    assert model.net == lstm_jax.rnn(1, 2) and model.vocabulary is None and model.arrays == {}
    assert model.params.w_h.tolist() == [[1, 0], [0, 1]]


def test_both_ways_of_saving_write_one_format(tmp_path):
    params = STACK.init(jax.random.key(0))
    lstm_jax.save(tmp_path / "a", STACK, params)
    weights.save_safetensors(tmp_path / "b", STACK, params)
    # The order of the metadata is none.
    assert read_stored(tmp_path / "a").metadata == read_stored(tmp_path / "b").metadata
    for name, array in weights.named_arrays(tmp_path / "a").items():
        assert (array == weights.named_arrays(tmp_path / "b")[name]).all()


def test_the_recurrent_layers_of_a_language_model_are_found(tmp_path):
    params = MODEL.init(jax.random.key(0))
    lstm_jax.save(tmp_path / "m", MODEL, params, vocabulary=VOCABULARY, arrays={"x": np.arange(3)})
    (layer,) = weights.recurrent_layers(tmp_path / "m")
    assert (layer.kind, layer.input_size, layer.hidden_size) == ("lstm", 6, 6)
    net, loaded = weights.load(tmp_path / "m")
    assert net == MODEL.stack
    assert_close(loaded, params.stack, 0)


def test_a_step_of_ones_own_cannot_be_described(tmp_path):
    own = LSTM._replace(step=lambda params, state, x: LSTM.step(params, state, x), rule=None)
    for net in (own, lstm_jax.stack(own), lstm_jax.bidirectional(own)):
        with pytest.raises(TypeError, match=r"got lstm\(.* with another step. Save its param"):
            lstm_jax.save(tmp_path / "m", net, net.init(jax.random.key(0)))
    with pytest.raises(TypeError, match="got function. A step of one's own cannot be described"):
        lstm_jax.describe(lambda params, state, x: (state, x))
    other_start = lstm_jax.lstm(3, 4, forget_bias=5.0, w_h_init=lstm_jax.orthogonal())
    assert lstm_jax.describe(other_start) == lstm_jax.describe(LSTM)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({}, "got {}, of which"),
        ({"kind": "lstm"}, "got {'kind': 'lstm'}, of which"),
        ({"kind": "language_model"}, "of which: 'stack'"),
        ({"kind": "mamba", "input_size": 1, "hidden_size": 1}, "of which: 'mamba'"),
        ({"kind": "lstm", "input_size": -1, "hidden_size": 1}, "input_size .* got -1"),
    ],
)
def test_descriptions_of_nothing(description, said):
    with pytest.raises(ValueError, match=f"Description mismatch: expected that of a cell.*{said}"):
        lstm_jax.from_description(description)


def changed(path, **metadata):
    """A language model's file with other metadata; None leaves one out."""
    lstm_jax.save(path, MODEL, MODEL.init(jax.random.key(0)), vocabulary=VOCABULARY)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    said = {n: t for n, t in (header["__metadata__"] | metadata).items() if t is not None}
    path.write_bytes(safetensors.numpy.save(safetensors.numpy.load(content), said))


TOKENS = {"tokens": ["<unk>", "a", "b", "c", "d"], "unknown": 0, "kind": "characters"}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"net": None}, "with a network, got none"),
        ({"net": "["}, "expected JSON"),
        ({"net": "[]"}, "describe a network, got \\[\\]"),
        ({"net": json.dumps({"layers": [{}] * 999})}, "describe a network"),
        ({"version": "2"}, "with version 1, got 2"),
        ({"vocabulary": json.dumps(TOKENS | {"tokens": ["a", "a"]})}, "got 'a' twice"),
        ({"vocabulary": json.dumps(TOKENS | {"tokens": ["a"]})}, "vocabulary of 5 tokens.* got 1"),
        ({"vocabulary": json.dumps(TOKENS | {"unknown": 5})}, "of which: "),
        ({"vocabulary": json.dumps(TOKENS | {"kind": "syllables"})}, "got 'syllables'"),
        ({"vocabulary": "3"}, "describe the network's vocabulary, got 3"),
        ({"net": json.dumps(lstm_jax.describe(LSTM))}, "Name mismatch|vocabulary"),
    ],
)
def test_files_that_are_refused(metadata, said, tmp_path):
    changed(tmp_path / "m", **metadata)
    with pytest.raises(ValueError, match=said):
        lstm_jax.load(tmp_path / "m")


def test_what_cannot_be_saved(tmp_path):
    params, path = MODEL.init(jax.random.key(0)), tmp_path / "m"
    for net, its, options, error, said in [
        (MODEL, params, {"vocabulary": TOKENS}, TypeError, "Vocabulary"),
        (
            MODEL,
            params,
            {"vocabulary": language.character_vocabulary("ab")},
            ValueError,
            "of 5 tokens, as the model has, got 2",
        ),
        (LSTM, LSTM.init(jax.random.key(0)), {"vocabulary": VOCABULARY}, TypeError, "alone"),
        (MODEL, params.stack, {}, TypeError, "params"),
        (MODEL, params, {"arrays": {"names": np.array(["a"])}}, TypeError, "names"),
        (MODEL, params, {"arrays": {"z": np.ones(1, complex)}}, TypeError, "got complex128"),
    ]:
        with pytest.raises(error, match=said):
            lstm_jax.save(path, net, its, **options)
    assert not list(tmp_path.iterdir())
    lstm_jax.save(path, MODEL, params)
    with pytest.raises(ValueError, match="which='best' beside the folder of a run, got the file"):
        lstm_jax.load(path, "best")
    with pytest.raises(FileNotFoundError):
        lstm_jax.load(tmp_path / "none")


def problem_of(model, vocabulary=None):
    def batch(codes, step, key):
        return language.contiguous(codes, step, 2, 5)

    return language.language_problem(model, batch, 2, vocabulary=vocabulary)


@pytest.mark.slow
def test_a_run_becomes_a_model(tmp_path):
    codes = VOCABULARY.encode("abcab" * 30)
    options = training.RunOptions(
        checkpoint_every=2, evaluate_every=2, best="n", keep=9, progress=False,
        evaluate=lambda params: {"n": abs(float(params.b_y.sum()))},
    )  # fmt: skip
    run = training.fit(
        problem_of(MODEL, VOCABULARY), optax.adam(0.1), 6, data=codes, folder=tmp_path / "run",
        options=options,
    )  # fmt: skip
    model = lstm_jax.load(tmp_path / "run", "last")
    assert (model.net, model.vocabulary) == (MODEL, VOCABULARY)
    assert_close(model.params, run.state.params, 0)
    best = lstm_jax.load(tmp_path / "run", "best").params
    for which in (run.best, None):
        assert_close(lstm_jax.load(tmp_path / "run", which).params, best, 0)
    found = training.load(tmp_path / "run").description
    assert lstm_jax.from_description(found["net"]) == MODEL
    # As one file, it is the same model.
    lstm_jax.save(tmp_path / "m", *model[:2], vocabulary=model.vocabulary)
    again = lstm_jax.load(tmp_path / "m")
    text = language.generate(again.net, again.params, codes[:3], 8).tokens
    assert (text == language.generate(MODEL, run.state.params, codes[:3], 8).tokens).all()


def test_a_run_that_does_not_say_what_it_is(tmp_path):
    own = LSTM._replace(step=lambda params, state, x: LSTM.step(params, state, x), rule=None)
    assert problem_of(language.language_model(lstm_jax.stack(own), 9)).description is None
    problem = training.Problem(
        init=lambda key: jnp.zeros(2),
        loss=lambda params, carry, batch, key: ((params**2).sum(), (carry, {})),
        batch=lambda data, step, key: data,
    )
    options = training.RunOptions(progress=False)
    for folder, said in {"a": None, "b": {"net": lstm_jax.describe(LSTM)}}.items():
        training.fit(
            problem._replace(description=said), optax.sgd(0.1), 1, data=jnp.ones(1),
            folder=tmp_path / folder, options=options,
        )  # fmt: skip
    with pytest.raises(ValueError, match="whose problem describes its network, got one that does"):
        lstm_jax.load(tmp_path / "a")
    with pytest.raises(training.CheckpointError, match="Parameters mismatch"):
        lstm_jax.load(tmp_path / "b")
