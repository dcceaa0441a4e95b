"""A file appears whole or not at all, on a full disk and when the process is killed as well."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PARTIAL = ".partial-"
"""How the name of a file begins that is not whole yet; a killed process leaves it behind."""


def write_file(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path`` with the same ending, which then takes its name.

    Raises:
        OSError: a folder that is not there or cannot be written to; the file is as before.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL, suffix=path.suffix)
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes it readable by its owner only; other files are as the umask says.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """`write_file` with what the file is to hold."""
    write_file(path, lambda partial: partial.write_bytes(content))
