"""A language model with its vocabulary, as the commands take it."""

from pathlib import Path

from lstm_jax.language.model import LanguageModel
from lstm_jax.models_on_disk import Model, load


def checkpoint_named(which: str | None) -> str | int | None:
    """``--which`` as `lstm_jax.load` takes it."""
    return int(which) if which is not None and which.isdecimal() else which


def language_model_at(path: Path, which: str | int | None = None) -> Model:
    """Read a language model from a file or from the folder of a run.

    Raises:
        ValueError: another network, or one without its vocabulary.
    """
    if not path.exists():
        raise ValueError(f"Missing model: expected a run or a file in {path}, got nothing there.")
    found = load(path, which)
    if not isinstance(found.net, LanguageModel):
        raise ValueError(f"Model mismatch: expected a language model in {path}, got {found.net}.")
    if found.vocabulary is None:
        raise ValueError(
            f"Missing vocabulary: expected one with the model in {path}, got none. Name it where it is "
            "written: language_problem(…, vocabulary=) or lstm_jax.save(…, vocabulary=)."
        )
    return found
