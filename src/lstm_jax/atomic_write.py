"""Write a file completely or not at all, even on a full disk or if the process is killed."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lstm_jax.validation import AnyPath, require_path

PARTIAL = ".partial-"
"""The beginning of the name of an incomplete file, which a killed process leaves behind."""


def write_file(path: AnyPath, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a new file beside ``path``, with the same ending, and rename it to ``path``.

    Raises:
        TypeError, ValueError: something else than a path, or an empty text.
        OSError: a folder that does not exist or cannot be written to; the file stays as before.
    """
    path = require_path("path", path)
    with _errors_of(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL, suffix=path.suffix)
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes the file readable by its owner only; give it the rights that the umask sets.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        with _errors_of(path):
            os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Errors of the system name the file itself, not the incomplete one beside it."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


def write_whole(path: AnyPath, content: bytes) -> None:
    """Write ``content`` by `write_file`."""
    write_file(path, lambda partial: partial.write_bytes(content))
