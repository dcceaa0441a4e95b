"""Read options into a dataclass by `tyro`, and shorten its error messages to one sentence."""

import contextlib
import io
import sys
from collections.abc import Sequence
from typing import Any

import tyro


def parse(config: Any, program: str, arguments: Sequence[str] | None) -> Any:
    """Read a configuration from the command line.

    Args:
        config: a dataclass, or a union of them as subcommands; the fields are the options.
        program: the name of the command in the help.
        arguments: the words of the command line; those of the process if None.

    Returns:
        The configuration.

    Raises:
        SystemExit: 0 after ``--help``; 2 after one sentence about options that do not parse.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(config, args=arguments, prog=program)
    except SystemExit as stop:
        if stop.code == 2:
            print(f"error: {_sentence(box.getvalue())}", file=sys.stderr)
        raise


def _sentence(framed: str) -> str:
    # tyro draws a frame with a title around its message; the first paragraph inside says what is wrong.
    words: list[str] = []
    for line in framed.splitlines():
        text = line.strip("│| ")
        ruled = text.startswith(("╭", "─", "╰", "--", "- ")) or not text
        if ruled and words:
            break
        if not ruled:
            words.append(text)
    return f"{' '.join(words).rstrip('.')}; --help lists the options."
