"""Read options into a dataclass by `tyro`, and shorten its error messages to one sentence."""

import contextlib
import dataclasses
import difflib
import io
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

import lstm_jax
from lstm_jax.command_line.exit_codes import UNREAD, leave_pipes, print_all_characters

VERSION = "--version"


def parse(config: Any, program: str, arguments: Sequence[str] | None) -> Any:
    """Read a configuration from the command line.

    Args:
        config: a dataclass, or a union of them as subcommands; the fields are the options.
        program: the name of the command in the help.
        arguments: the words of the command line; those of the process if None.

    Returns:
        The configuration.

    Raises:
        SystemExit: 0 after ``--help`` and ``--version``; 2 after one sentence about options that do not
            parse.
    """
    print_all_characters()
    try:
        return _parsed(config, program, arguments)
    except SystemExit:
        _flush()
        raise
    except BrokenPipeError:
        leave_pipes()
        raise SystemExit(UNREAD) from None


def _flush() -> None:
    """Find out now, not at the end of the process, whether anybody reads what was printed."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        leave_pipes()
        raise SystemExit(UNREAD) from None


def _parsed(config: Any, program: str, arguments: Sequence[str] | None) -> Any:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == [VERSION]:
        print(f"{program} {lstm_jax.__version__}\n{lstm_jax.show_backends()}")
        raise SystemExit(0)
    _refuse_empty_paths(config, words)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(config, args=words, prog=program)
    except SystemExit as stop:
        if stop.code == 2:
            said = box.getvalue()
            print(
                f"error: {_unknown(config, program, words, said) or _sentence(said)}",
                file=sys.stderr,
            )
        raise


def _refuse_empty_paths(config: Any, words: Sequence[str]) -> None:
    """Refuse an empty text as a path: it would be the present folder."""
    for before, word in zip(["", *words], words, strict=False):
        option, _, value = word.partition("=") if word.startswith("--") else (before, "", word)
        if value or (word.startswith("--") and not word.endswith("=")):
            continue
        if not option.startswith("--") or option[2:].replace("-", "_") in _path_fields(config):
            after = f" after {option}" if option.startswith("--") else ""
            print(
                f"error: Empty path: expected one{after}, got an empty text; --help lists the options.",
                file=sys.stderr,
            )
            raise SystemExit(2)


def _path_fields(config: Any) -> set[str]:
    """The fields of a configuration, or of all in a union, that are paths."""
    found: set[str] = set()
    if dataclasses.is_dataclass(config):
        fields = dataclasses.fields(config)
        return {
            field.name for field in fields if Path in (field.type, *typing.get_args(field.type))
        }
    for part in typing.get_args(config):
        found |= _path_fields(part)
    return found


def _unknown(config: Any, program: str, words: Sequence[str], said: str) -> str | None:
    """The sentence about the first option that does not exist, with the nearest one that does."""
    if "Unrecognized" not in said or not words:
        return None
    options, commands = _help(config, program, [])
    if commands and words[0].startswith("-"):
        return f"Misplaced option: expected one of {', '.join(commands)} before the options, got {words[0]}."
    if commands and words[0] not in commands:
        return _told("command", words[0], commands)
    if commands:
        options, _ = _help(config, program, [words[0]])
    named = [word.partition("=")[0] for word in words if word.startswith("--")]
    # Tyro reads --hidden_size as --hidden-size.
    wrong = next((word for word in named if word.replace("_", "-") not in options), None)
    return None if wrong is None else _told("option", wrong, options)


def _told(what: str, wrong: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.65)
    meant = f" Did you mean {near[0]}?" if near else " --help lists them."
    return f"Unknown {what}: expected a known one, got {wrong}.{meant}"


def _help(config: Any, program: str, command: list[str]) -> tuple[list[str], list[str]]:
    """The options and the subcommands in the help of a command."""
    box = io.StringIO()
    with contextlib.redirect_stdout(box), contextlib.suppress(SystemExit):
        tyro.cli(config, args=[*command, "--help"], prog=program)
    text = box.getvalue()
    commands = re.search(r"^usage: .*?\{([\w,\s-]+)\}\s*$", text, re.MULTILINE)
    return (
        sorted({*re.findall(r"(?<![\w-])--[a-z][\w-]*", text)}),
        [name.strip() for name in commands[1].split(",")] if commands else [],
    )


def _sentence(framed: str) -> str:
    # tyro draws a frame with a title around its message; the first paragraph inside says what is wrong.
    words: list[str] = []
    for line in framed.splitlines():
        text = line.strip("│| +")
        ruled = text.startswith(("╭", "─", "╰", "--", "- ")) or not text
        if ruled and words:
            break
        if not ruled:
            words.append(text)
    return f"{' '.join(words).rstrip('.')}; --help lists the options."
