"""Character models: The Time Machine as Dive into Deep Learning trains on it, and a whole book.

Each setting is trained, continues two prompts, and is reported with its perplexity and its speed.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.char_lm.settings import SETTINGS, Parts, Ready, Setting, cut, ready
from experiments.running import Mismatch, Refusal, keep, table
from experiments.training import TrainingConfig, begin_run, claim_run, say, training_exit_code
from gradient_flow.measurements.training_watch import flow_watch
from gradient_flow.pictures.watch_figures import draw_watch
from lstm_jax.command_line.tyro_options import parse
from lstm_jax.language import Corpus, LanguageParams, generate, load_corpus, nats_per_token
from lstm_jax.training import Computation, Fitted, Watch, fit, read_log

Name = Literal["scratch", "scratch_uniform", "library", "two_layers", "book"]

PROMPTS = ("time traveller", "traveller")


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """Train character models, report their perplexity, and let them write."""

    settings: tuple[Name, ...] = ("scratch", "scratch_uniform", "library", "two_layers", "book")
    """Which of the settings."""
    corpus: str = "timemachine"
    """timemachine, embedded, or a text file."""
    data: Path | None = None
    """Folder of timemachine.txt; downloaded if not named."""
    out: Path = Path("experiments/char_lm/results")
    """Folder for the runs, one in it for each setting."""
    prompts: tuple[str, ...] = PROMPTS
    """Texts that the models continue."""
    characters: int = 50
    """How many characters they write."""
    temperature: float = 0.0
    """Temperature of the sampling; 0 takes the most probable character each time."""
    epochs: int | None = None
    """Epochs; those of the setting if not given."""


def chosen(config: Config) -> dict[str, Setting]:
    """The settings of a run, smaller in a quick one."""
    found: dict[str, Setting] = {name: SETTINGS[name] for name in dict.fromkeys(config.settings)}
    if config.quick:
        found = {
            name: dataclasses.replace(
                setting, hidden_size=32, epochs=4, tokens=3_000, held_out=0.1 * (name == "book"),
                expected=None, batch_size=8, length=20,
            )
            for name, setting in found.items()
        }  # fmt: skip
    changed: dict[str, Any] = {} if config.epochs is None else {"epochs": config.epochs}
    if config.epochs is not None or config.corpus != "timemachine":
        # The book's figures are for the book's text and epochs.
        changed |= {"expected": None, "published": None}
    found = {name: dataclasses.replace(setting, **changed) for name, setting in found.items()}
    return found


def check(config: Config, corpus: Corpus) -> None:
    """Refuse, before any training, options that would fail after it.

    Raises:
        Refusal: with the option in the message.
        TextError: a prompt with a character that is not in the text.
    """
    if not config.settings:
        raise Refusal(f"Name mismatch: expected --settings among {', '.join(SETTINGS)}, got none.")
    if corpus.vocabulary.kind != "characters":
        raise Refusal(f"Text mismatch: expected one in characters, got {corpus.name} in words.")
    if config.characters < 1 or (config.epochs is not None and config.epochs < 1):
        raise Refusal(
            "Range mismatch: expected --characters and --epochs of at least 1, got "
            f"{config.characters} and {config.epochs}."
        )
    if not 0 <= config.temperature < math.inf:
        raise Refusal(
            f"Range mismatch: expected --temperature from 0 on, got {config.temperature:g}."
        )
    for prompt in config.prompts:
        if not len(corpus.vocabulary.encode(prompt)):
            raise Refusal("Prompt mismatch: expected at least one character, got an empty prompt.")


def train(
    config: Config,
    setting: Setting,
    parts: Parts,
    made: Ready,
    out: Path,
    mesh: Mesh | None,
) -> Fitted:
    """One setting's run."""

    def valid_bits(params: Any) -> dict[str, float]:
        nats = nats_per_token(made.net, made.to_library(params), parts.valid)
        return {"valid_bits": nats / math.log(2)}

    evaluate = valid_bits if len(parts.valid) else None
    epoch = made.steps_per_epoch
    options = config.run_options(evaluate_every=epoch if evaluate else None)
    # An entry of the log is an epoch, as in the book.
    options = dataclasses.replace(options, log_every=epoch)
    return fit(
        made.problem,
        made.optimizer,
        setting.epochs * epoch,
        seed=config.seed,
        data=parts.train,
        folder=out,
        options=dataclasses.replace(
            options,
            settings={"setting": dataclasses.asdict(setting), "corpus": config.corpus},
            unit=("tokens", setting.batch_size * setting.length),
            evaluate=evaluate,
            best=None if evaluate is None else "valid_bits",
            watches=[] if config.watch_flow is None else [watch(config.watch_flow, parts, made)],
        ),
        computation=Computation(mesh=mesh),
    )


def watch(every: int, parts: Parts, made: Ready) -> Watch:
    """The microscope on the recurrent layers, over the first hundred characters."""
    codes = jnp.asarray(parts.train[:100])

    def of(params: Any) -> tuple[Any, jax.Array]:
        own = made.to_library(params)
        return own.stack, made.net.inputs(own, codes)

    return flow_watch(made.net.stack, of, every)


def write(
    config: Config, corpus: Corpus, made: Ready, params: LanguageParams
) -> list[tuple[str, str]]:
    """What a model writes on from each prompt."""
    found = []
    for n, prompt in enumerate(config.prompts):
        key = jax.random.fold_in(jax.random.key(config.seed), n)
        codes = jnp.asarray(corpus.vocabulary.encode(prompt))
        tokens = generate(
            made.net, params, codes, config.characters, temperature=config.temperature, key=key
        ).tokens
        found.append((prompt, corpus.vocabulary.decode(np.asarray(tokens))))
    return found


def run(config: Config) -> None:
    """Train every setting, print and keep.

    Raises:
        Refusal, RunError, TextError, OutputError: what cannot be run, before anything is.
        Mismatch: a training perplexity above the expected one, after the results are kept.
    """
    mesh = config.start()
    corpus = load_corpus(config.corpus, config.data)
    check(config, corpus)
    settings = chosen(config)
    parts = {name: cut(corpus, setting) for name, setting in settings.items()}
    made = {
        name: ready(setting, corpus.vocabulary.size, len(parts[name].train))
        for name, setting in settings.items()
    }
    out = claim_run(config.out, "char_lm", config)
    say(f"{corpus.name}: {len(corpus.codes):,} characters, vocabulary {corpus.vocabulary.size}")
    rows, texts, late, seen = [], [], [], []
    arrays: dict[str, np.ndarray] = {}
    results: dict[str, Any] = {}
    begin_run(out)
    for name, setting in settings.items():
        fitted = train(config, setting, parts[name], made[name], out / name, mesh)
        params = made[name].to_library(fitted.state.params)
        if config.watch_flow is not None and not jax.process_index():
            share = fitted.watch_seconds / (fitted.watch_seconds + fitted.seconds)
            seen.append(f"{setting.label}: looks took {100 * share:.1f} % of the run")
        last = fitted.log[-1]
        perplexity = float(np.exp(last["nats"]))
        steps = last["step"]
        rate = steps * setting.batch_size * setting.length / fitted.seconds
        held = "-"
        if len(parts[name].test):
            bits = nats_per_token(made[name].net, params, parts[name].test) / math.log(2)
            held = f"{bits:.3f}"
            results[f"{name}_test_bits"] = bits
        published = setting.published
        rows.append(
            (
                setting.label,
                f"{perplexity:.3f}",
                held,
                f"{rate:,.0f}",
                f"{fitted.seconds / 60:.1f}",
                "-" if published is None else f"{published[0]:g}",
                "-" if published is None else f"{published[1]:,}",
            )
        )
        for prompt, text in write(config, corpus, made[name], params):
            texts.append(f"  {setting.label}: {prompt}|{text}")
        # Before the first step there is an evaluation alone.
        log = [entry for entry in fitted.log if "nats" in entry]
        arrays[f"{name}/step"] = np.array([entry["step"] for entry in log])
        arrays[f"{name}/nats"] = np.array([entry["nats"] for entry in log])
        results[name] = {"perplexity": perplexity, "tokens_per_second": rate}
        if setting.expected is not None and not perplexity <= setting.expected:
            late.append(f"{setting.label} {perplexity:.3f} instead of {setting.expected:g}")
    header = (
        "setting",
        "perplexity",
        "test bits/char",
        "tokens/s",
        "minutes",
        "book's",
        "tokens/s",
    )
    tables = "\n\n".join(
        (
            table("Training perplexity of the last epoch, and speed", header, rows),
            "\n".join(
                (
                    f"Written at temperature {config.temperature:g}, the prompt before the bar",
                    *texts,
                )
            ),
            *seen,
        )
    )
    if jax.process_index():
        return
    print(tables)
    keep(out, arrays, {**results, "texts": texts, "config": vars(config)}, tables)
    for name in settings if config.watch_flow is not None else ():
        draw_watch(out / name / "flow", log=read_log(out / name))
    print(f"\nWritten to {out}")
    if late:
        raise Mismatch(
            f"Perplexity mismatch: expected at most the named ones, got {', '.join(late)}."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run; the exit code."""
    config = parse(Config, "python -m experiments.char_lm", arguments)
    return training_exit_code(lambda: run(config))
