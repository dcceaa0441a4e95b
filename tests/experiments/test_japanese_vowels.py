"""The experiment on sequences of different lengths: its reader, a short run, and what it refuses."""

import json

import numpy as np
import pytest
from experiments.japanese_vowels import data
from experiments.japanese_vowels import run as vowels
from experiments.running import Refusal

pytestmark = pytest.mark.usefixtures("standard_promotion")


def write(folder, sequences, labels):
    """Two ``.ts`` files with the same sequences."""
    lines = ["# a comment", "@problemName Small", "@data"]
    for x, label in zip(sequences, labels, strict=True):
        channels = [",".join(f"{v:.6f}" for v in channel) for channel in np.asarray(x).T]
        lines.append(":".join([*channels, str(label)]))
    for name in data.NAMES:
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def small(tmp_path):
    """Nine easily told classes of two channels, of lengths 3 to 6."""
    rng = np.random.default_rng(0)
    labels = [n % 9 + 1 for n in range(45)]
    directions = rng.standard_normal((9, 2)) * 3
    sequences = [
        directions[label - 1] * np.linspace(1, label, 3 + n % 4)[:, None]
        for n, label in enumerate(labels)
    ]
    write(tmp_path, sequences, labels)
    return tmp_path, sequences, labels


def test_the_reader_gives_back_what_was_written(small):
    folder, sequences, labels = small
    found = data.read(folder / data.NAMES[0])
    np.testing.assert_array_equal(found.labels, np.array(labels) - 1)
    for came, x in zip(found.xs, sequences, strict=True):
        np.testing.assert_allclose(came, x, atol=1e-6)


def test_the_real_files_are_as_described(data_folder):
    folder = data_folder / "japanese_vowels"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    training, test = (data.read(folder / name) for name in data.NAMES)
    assert (len(training.xs), len(test.xs)) == (270, 370)
    assert {x.shape[1] for x in (*training.xs, *test.xs)} == {12}
    lengths = [len(x) for x in (*training.xs, *test.xs)]
    assert (min(lengths), max(lengths)) == (7, 29)
    np.testing.assert_array_equal(np.bincount(training.labels), [30] * 9)


@pytest.mark.slow
def test_a_short_run_learns_and_keeps_its_results(small, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--data", str(small[0]), "--out", str(out), "--seeds", "2", "--steps", "60"]
    words += ["--hidden-size", "8", "--batch-size", "9", "--learning-rate", "0.03", "--expected"]
    assert vowels.main([*words, "60"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert len(results["accuracies"]) == 2 and results["median"] >= 60
    arrays = np.load(out / "arrays.npz")
    assert arrays["losses"].shape == (2, 3) and arrays["confusion"].sum() == 90
    assert "Test accuracy" in capsys.readouterr().out
    # A second run into the folder, and an accuracy that was not reached.
    assert vowels.main([*words, "60"]) == 2
    assert "Occupied folder" in capsys.readouterr().err
    assert vowels.main([*words, "101", "--overwrite"]) == 1
    assert "expected a median of at least 101 %" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "expected seeds to be a positive integer, got 0"),
        (["--buckets", "0"], "expected buckets to be a positive integer, got 0"),
        (["--dropout", "1"], "expected dropout from 0 to below 1, got 1"),
        (["--noise", "-1"], "expected noise of at least 0, got -1"),
        (["--learning-rate", "0"], "expected learning_rate as a finite number above 0"),
        (["--batch-size", "46"], "expected batch_size of at most 45"),
        (["--data", "/nowhere"], "expected JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts in"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(small, tmp_path, capsys, words, message):
    started = ["--data", str(small[0]), "--out", str(tmp_path / "out")]
    assert vowels.main([*started, *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2:1,2,3:1", "channels of one length and a label in line 2"),
        ("1,2:x,2:1", "channels of one length and a label in line 2"),
        ("1,2:1,2:speaker", "a label in line 2"),
        ("1,nan:1,2:1", "channels of finite values in line 2"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, line, message):
    path = tmp_path / "one.ts"
    path.write_text(f"@data\n{line}\n")
    with pytest.raises(Refusal, match=message):
        data.read(path)
    path.write_text("@data\n")
    with pytest.raises(Refusal, match="expected sequences after @data"):
        data.read(path)
