"""`lstm-jax` as its users call it: a text becomes a run, the run a model, the model writes."""

import math
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import lstm_jax
from lstm_jax import language
from lstm_jax.command_line.commands import main
from lstm_jax.command_line.evaluate_command import shown

TEXT = "the cat sat on the mat and the dog sat on the log\n" * 12
SMALL = ["--hidden-size", "8", "--embedding-size", "4", "--batch-size", "2", "--length", "8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs, resumed to a third, and what the command said."""
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text").write_text(TEXT)
    command = ["train", f"{folder}/text", "--out", f"{folder}/run", *SMALL, "--layers", "2"]
    assert main([*command, "--epochs", "2"]) == 0
    # The text may lie elsewhere.
    (folder / "moved").write_text(TEXT)
    command[1] = f"{folder}/moved"
    assert main([*command, "--epochs", "3", "--resume"]) == 0
    return folder


def test_a_run_and_its_file_are_one_model(trained):
    of_run, of_file = (
        lstm_jax.load(trained / "run"),
        lstm_jax.load(trained / "run/model.safetensors"),
    )
    assert of_run.net == of_file.net and of_run.vocabulary == of_file.vocabulary
    assert (of_run.params.w_y == of_file.params.w_y).all()
    assert of_run.net.stack.layers == (lstm_jax.lstm(4, 8), lstm_jax.lstm(8, 8))
    corpus = language.split_text(TEXT, "text")
    assert of_run.vocabulary == corpus.vocabulary
    codes, test = corpus.codes, corpus.test
    assert len(codes) + len(corpus.valid) + len(test) == len(TEXT) and len(test) == len(TEXT) // 20


def test_it_says_what_it_measured(trained, capsys):
    command = ["train", f"{trained}/text", "--out", f"{trained}/run", *SMALL, "--layers", "2"]
    (trained / "run/log.jsonl").unlink()
    assert main([*command, "--epochs", "3", "--resume"]) == 0
    said, warned = capsys.readouterr()
    assert "Incomplete log" in warned
    model, corpus = lstm_jax.load(trained / "run"), language.split_text(TEXT, "text")
    nats = language.nats_per_token(model.net, model.params, corpus.test, batch_size=15)
    assert f"test        {nats:.4f} nats, {nats / math.log(2):.4f} bits per character" in said
    assert f"perplexity {math.exp(nats):.3f}" in said and "; the best, after epoch 3" in said


def test_a_perplexity_beyond_all_numbers_is_infinite():
    assert shown(800.0, "words").endswith("bits per word; perplexity inf")


def test_evaluate_reads_any_text(trained, capsys, tmp_path):
    (tmp_path / "other").write_text("the rat sat.")
    assert main(["evaluate", f"{trained}/run", f"{tmp_path}/other"]) == 0
    said = capsys.readouterr().out
    model = lstm_jax.load(trained / "run")
    codes = model.vocabulary.encode("the rat sat.")
    nats = language.nats_per_token(model.net, model.params, codes)
    assert f"{nats:.4f} nats" in said and "not in the vocabulary: 16.67 %" in said


def test_generate_writes_what_the_library_does(trained, capsys):
    prompts = ["--prompt", "the c", "--prompt", "on ¢"]
    assert (
        main(["generate", f"{trained}/run", *prompts, "--length", "40", "--temperature", "0"]) == 0
    )
    told = capsys.readouterr()
    model, texts = lstm_jax.load(trained / "run"), []
    for prompt in ("the c", "on ¢"):
        codes = model.vocabulary.encode(prompt)
        tokens = language.generate(model.net, model.params, codes, 40).tokens
        texts.append(prompt + model.vocabulary.decode(np.asarray(tokens)))
    assert told.out == "\n\n".join(texts) + "\n"
    assert told.err == "note: not in the vocabulary, read as <unk>: '¢'\n"


def test_draws_follow_the_seed(trained, capsys):
    said = {}
    for options in ("--seed 1", "--seed 1", "--seed 2", "--seed 1 --top-k 1"):
        command = ["generate", f"{trained}/run", "--prompt", "the", "--length", "30"]
        assert main([*command, *options.split()]) == 0
        said.setdefault(options, []).append(capsys.readouterr().out)
    assert said["--seed 1"][0] == said["--seed 1"][1] != said["--seed 2"][0]
    assert said["--seed 1 --top-k 1"][0] != said["--seed 1"][0]


def test_words(tmp_path, capsys):
    (tmp_path / "text").write_text(TEXT)
    options = [
        "--tokens",
        "words",
        "--min-count",
        "13",
        "--valid",
        "0",
        "--test",
        "0",
        "--kind",
        "gru",
    ]
    command = ["train", f"{tmp_path}/text", "--out", f"{tmp_path}/run", *SMALL, *options]
    assert main([*command, "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert "validation" not in said and "test " not in said and "bits per word" in said
    model = lstm_jax.load(tmp_path / "run")
    assert model.vocabulary.tokens == ("<unk>", "the", "on", "sat")
    assert main(["generate", f"{tmp_path}/run", "--prompt", "the cat", "--length", "3"]) == 0
    told = capsys.readouterr()
    assert len(told.out.split()) == 5 and "'cat'" in told.err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("generate {}/run", "expected --prompt TEXT, got none"),
        ("generate {}/none --prompt a", "expected a run or a file in .*none, got nothing"),
        ("generate {}/text --prompt a", "whole safetensors file"),
        ("generate {}/run --prompt a --length 0", "length to be a positive integer, got 0"),
        ("generate {}/run --prompt a --which 7", "expected that of step 7 in"),
        ("generate {}/run --prompt a --which worst", "a step, got 'worst'"),
        ("generate {}/run --prompt a --top-p 3", "up to 1, got 3"),
        ("generate {}/run --prompt=", "Empty prompt|at least one token"),
        ("evaluate {}/run {}/none", "expected a text file, got"),
        ("evaluate {}/run {}/text --rows 9999", "at least 19998 tokens"),
        ("train {}/none", "expected a text file, got"),
        ("train {}/text --out {}/run --batch-size 2 --length 8", "expected one without a run"),
        (
            f"train {{}}/text --out {{}}/run {' '.join(SMALL)} --layers 2 --resume --tokens words",
            "expected tokens 'characters', as in .*, got 'words'",
        ),
        ("train {}/text --out {}/new --epochs 0", "--epochs of at least 1, got 0"),
        ("train {}/text --out {}/new --patience 0", "--patience of at least 1, .* got 0 and 0.05"),
        ("train {}/text --out {}/new --patience 3 --valid 0", "--valid above 0, got 3 and 0"),
        ("train {}/text --out {}/new --learning-rate -1", "--learning-rate above 0, got -1"),
        (
            "train {}/text --out {}/new --valid 0.6 --test 0.6",
            "less than 1 together, got 0.6 and 0.6",
        ),
        ("train {}/text --out {}/new --length 999", "at least 32968 tokens"),
        ("train ptb --out {}/new", "expected --tokens words, those of ptb, got characters"),
    ],
)
def test_what_is_refused(trained, command, said, capsys, monkeypatch):
    words = language.Vocabulary(("<unk>", "a", "b"), 0, "words")
    ptb = language.Corpus(
        "ptb", language.Vocabulary(words, 0, "words"), np.ones(9, np.int32), np.ones(2), None
    )
    monkeypatch.setattr("lstm_jax.command_line.train_command.load_corpus", lambda name: ptb)
    code = main(command.format(*[trained] * 2).split())
    told = capsys.readouterr().err
    assert code in (1, 2) and told.startswith("error: ") and told.count("\n") == 1
    assert re.search(said, told), told
    assert not (trained / "new").exists()


def test_other_networks_are_no_language_models(tmp_path, capsys):
    cell = lstm_jax.lstm(1, 2)
    lstm_jax.save(tmp_path / "cell", cell, cell.init(jax.random.key(0)))
    model = language.language_model(lstm_jax.stack(lstm_jax.lstm(1, 2)), 3)
    lstm_jax.save(tmp_path / "model", model, model.init(jax.random.key(0)))
    for name, said in {"cell": "a language model in", "model": "Missing vocabulary"}.items():
        assert main(["generate", f"{tmp_path}/{name}", "--prompt", "a"]) == 2
        assert said in capsys.readouterr().err


MODULE = "from lstm_jax.command_line.commands import command; command()"


@pytest.mark.slow
def test_the_command_and_the_module_are_one():
    for words in (
        ["-m", "lstm_jax"],
        ["-c", "from lstm_jax.command_line.commands import command; command()"],
    ):
        found = subprocess.run(
            [sys.executable, *words, "--version"], capture_output=True, text=True
        )
        assert found.stdout.split()[1] == lstm_jax.__version__
