"""Download files once, check them, and store them in a cache.

A file is accepted by its checksum, whether it is from the cache, a user's folder or a server. A download is
written to a temporary file, checked, and then renamed, so that a killed or failed download never leaves a
wrong file.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from lstm_jax.atomic_write import write_file
from lstm_jax.language.vocabulary import TextError
from lstm_jax.validation import AnyPath, require_path

TIMEOUT = 30.0
"""Seconds without an answer after which a download fails."""


class Source(NamedTuple):
    """A file to download.

    Attributes:
        file: its name.
        urls: its addresses, tried in this order.
        sha256: its checksum.
        size: its bytes.
        remarks: its content, author and licence.
    """

    file: str
    urls: tuple[str, ...]
    sha256: str
    size: int
    remarks: str


def cache_folder() -> Path:
    """The folder of downloaded files: ``$LSTM_JAX_DATA``, else ``lstm_jax`` in the user's cache folder."""
    if named := os.environ.get("LSTM_JAX_DATA"):
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to ignore a relative path.
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "lstm_jax"


def contents(source: Source, data: AnyPath | None = None) -> bytes:
    """Read a file from ``data``, else from the cache, else from a server.

    Args:
        source: the file.
        data: a folder with the file; nothing is downloaded then.

    Returns:
        Bytes whose checksum is right.

    Raises:
        TextError: a folder without the file, a file with another checksum, a failed download, or a cache that
            cannot be written.
    """
    if data is not None:
        return checked(source, require_path("data", data) / source.file)
    path = cache_folder() / source.file
    try:
        return checked(source, path)
    except TextError:
        # Missing or damaged: the download replaces it.
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # `write_file` opens the file before the download, so an unwritable cache costs no download.
        write_file(path, lambda partial: partial.write_bytes(_fetch(source)))
    except OSError as error:
        raise TextError(
            f"Unwritable cache: expected to keep {path.name} in {path.parent}, got "
            f"{error.strerror!r}. Name another folder by LSTM_JAX_DATA."
        ) from None
    return path.read_bytes()


def checked(source: Source, path: Path) -> bytes:
    """Read a file and check it against its source.

    Raises:
        TextError: a missing or unreadable file, or one with another checksum.
    """
    try:
        found = path.read_bytes()
    except OSError as error:
        raise TextError(
            f"Missing data: expected {source.file} in {path.parent}, got none ({error.strerror})."
        ) from None
    if wrong := _wrong(source, found):
        raise TextError(f"Data mismatch: expected {path} of {_identity(source)}, got {wrong}.")
    return found


def _fetch(source: Source) -> bytes:
    """The file from the first server that has it."""
    failures = []
    for url in source.urls:
        request = urllib.request.Request(url, headers={"User-Agent": "lstm_jax"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                # One byte more than expected shows a file that is too long, without reading all of it.
                found = answer.read(source.size + 1)
        except urllib.error.HTTPError as error:
            error.close()
            wrong = f"{error.code} {error.reason}"
        except urllib.error.URLError as error:
            wrong = str(error.reason)
        except OSError as error:
            wrong = str(error) or type(error).__name__
        except http.client.HTTPException as error:
            wrong = f"no HTTP answer ({type(error).__name__})"
        else:
            wrong = _wrong(source, found)
            if not wrong:
                return found
        failures.append(f"{wrong} from {url}")
    raise TextError(
        f"Failed download: expected {source.file} of {_identity(source)}, got "
        f"{' and '.join(failures)}; name a folder that has it with --data DIR."
    )


def _identity(source: Source) -> str:
    return f"{source.size} bytes with sha256 {source.sha256}"


def _wrong(source: Source, found: bytes) -> str:
    """The difference from the expected file; empty if there is none."""
    if len(found) != source.size:
        return f"{'more' if len(found) > source.size else len(found)} bytes"
    sha256 = hashlib.sha256(found).hexdigest()
    return "" if sha256 == source.sha256 else f"sha256 {sha256}"
