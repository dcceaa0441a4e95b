"""The folder of a run: earlier results are not overwritten without --overwrite, unfinished ones do not count.

A run writes into a hidden folder inside its folder, and `publish` moves the files out at the end,
``results.json`` last. A folder with that file is finished. Until then, an earlier run that will be replaced
stays complete, and a lock in the hidden folder keeps other runs out; it ends with the process.
"""

import atexit
import json
import os
import platform
import shutil
import threading
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.atomic_write import write_file
from lstm_jax.folder_lock import FolderInUseError, FolderLock
from lstm_jax.validation import AnyPath, require_path

FINISHED = "results.json"
ARRAYS = "arrays.npz"
STAGE = ".unfinished"
LOCK = ".lock"


class OutputError(ValueError):
    """A folder that cannot take the results."""


class _Claim(NamedTuple):
    """A folder into which a thread of this process writes."""

    lock: FolderLock
    thread: threading.Thread


_claims: dict[Path, _Claim] = {}


def claim_folder(out: AnyPath | None, name: str, *, overwrite: bool) -> Path:
    """Make sure, before any long work, that results can be written, by this run alone.

    Args:
        out: the folder; if None, the next free ``runs/<name>-001``, ``-002``, … is made.
        name: of the kind of run.
        overwrite: whether files in ``out`` may be replaced.

    Returns:
        The folder, which exists and can be written.

    Raises:
        OutputError: a folder that holds files already, that another run writes into, or that cannot be made
            or written.
    """
    folder = _next_free(name) if out is None else _path("out", out)
    try:
        _refuse_occupied(folder, overwrite)
        stage = folder / STAGE
        stage.mkdir(parents=True, exist_ok=True)
        _lock(folder)
        try:
            # Another run may have ended in the meantime.
            _refuse_occupied(folder, overwrite)
        except OutputError:
            release_folder(folder)
            raise
        for path in stage.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    except FolderInUseError as error:
        raise OutputError(str(error).replace(str(stage), str(folder))) from None
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def _lock(folder: Path) -> None:
    """Lock a folder for the present thread, which may have it already."""
    key, thread = folder.resolve(), threading.current_thread()
    claim = _claims.get(key)
    if claim is not None and (claim.thread is thread or not claim.thread.is_alive()):
        if (folder / STAGE / LOCK).exists():
            _claims[key] = claim._replace(thread=thread)
            return
        claim.lock.release()
    _claims[key] = _Claim(FolderLock(folder / STAGE / LOCK), thread)


def release_folder(folder: AnyPath) -> None:
    """Let other runs write into a claimed folder; remove the hidden folder if it is empty."""
    path = _path("folder", folder)
    claim = _claims.pop(path.resolve(), None)
    if claim is not None:
        claim.lock.release()
    try:
        (path / STAGE).rmdir()
    except OSError:
        return  # Not empty, or another run's by now.


@atexit.register
def _release_all() -> None:
    for folder in list(_claims):
        release_folder(folder)


def _refuse_occupied(folder: Path, overwrite: bool) -> None:
    if overwrite or not folder.is_dir():
        return
    names = sorted(path.name for path in folder.iterdir() if path.name != STAGE)
    if names:
        content = "a finished run" if FINISHED in names else names[0]
        raise OutputError(
            f"Occupied folder: expected a new or empty folder, got {folder} with {content} in it. "
            "Name another --out or add --overwrite."
        )


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"Unwritable folder: expected to write into {folder}, got: {error.strerror or error}."
    )


def _path(name: str, value: Any) -> Path:
    try:
        return require_path(name, value)
    except (TypeError, ValueError) as error:
        raise OutputError(str(error)) from None


def _next_free(name: str) -> Path:
    for number in range(1, 10**6):
        folder = Path("runs") / f"{name}-{number:03d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            # Also where "runs" is a file.
            if folder.exists():
                continue
            raise OutputError("Unwritable folder: expected a folder, got the file runs.") from None
        except OSError as error:
            raise _unwritable(folder, error) from None
        return folder
    raise OutputError(f"No free number: expected one for runs/{name}-…, got none.")


def publish(
    folder: AnyPath, *, finishes: bool = True, replaces: Iterable[str] = (), more: bool = False
) -> None:
    """Move the written files out of the hidden folder, ``results.json`` last.

    Args:
        folder: from `claim_folder`.
        finishes: whether these are a run's results, which replace those of an earlier one.
        replaces: names of files of an earlier run that go with its results.
        more: whether more files follow; if not, other runs may write into the folder from then on.

    Raises:
        OutputError: files that cannot be moved.
    """
    path = _path("folder", folder)
    try:
        if finishes:
            for name in (FINISHED, *replaces):
                (path / name).unlink(missing_ok=True)
        files = [file for file in (path / STAGE).iterdir() if file.name != LOCK]
        for file in sorted(files, key=lambda file: file.name == FINISHED):
            os.replace(file, path / file.name)
    except OSError as error:
        raise _unwritable(path, error) from None
    if not more:
        release_folder(path)


def write_json(path: AnyPath, data: Any) -> None:
    """Write JSON, in which a number that is not finite becomes a string (``"inf"``)."""
    text = json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_file(path, write)


def write_arrays(path: AnyPath, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as one ``.npz``."""
    write_file(path, lambda partial: np.savez_compressed(partial, **arrays))  # type: ignore[arg-type]


def read_run(folder: AnyPath) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a finished run: the content of ``results.json`` and ``arrays.npz``.

    Raises:
        OutputError: a folder without a finished run, or one that cannot be read.
    """
    path = _path("folder", folder)
    for name in (FINISHED, ARRAYS):
        if not os.path.lexists(path / name):
            raise OutputError(
                f"No finished run: expected {FINISHED} and {ARRAYS} in {path}, got no {name}."
            )
    return read_json(path / FINISHED), read_arrays(path / ARRAYS)


def read_json(path: AnyPath) -> dict[str, Any]:
    """Read a JSON file with names and values.

    Raises:
        OutputError: a file that is missing, cut, damaged, or of another kind.
    """
    path = _path("path", path)
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, "JSON", error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _unreadable(path, "JSON", "bytes that are no text") from None
    except json.JSONDecodeError as error:
        what = f"something else in line {error.lineno}, {error.msg[:1].lower()}{error.msg[1:]}"
        raise _unreadable(path, "JSON", what) from None
    except (ValueError, RecursionError):
        raise _unreadable(path, "JSON", "lists within lists without an end") from None
    if not isinstance(found, dict):
        raise _unreadable(path, "names and values", f"a {type(found).__name__}")
    return found


ALWAYS, RATIO = 2**26, 100
"""The bytes to which a file of arrays may unpack: so many, and so many times its own size."""


def read_arrays(path: AnyPath) -> dict[str, np.ndarray]:
    """Read named arrays from an ``.npz``; files of pickled objects are not opened.

    Raises:
        OutputError: a file that is missing, cut, damaged, or of another kind.
    """
    path = _path("path", path)
    try:
        with path.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise _unreadable(path, "an .npz", "no whole archive of arrays")
            with zipfile.ZipFile(opened) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            packed = path.stat().st_size
            if unpacked > ALWAYS + RATIO * packed:
                got = f"{unpacked} bytes packed into {packed}"
                raise _unreadable(path, f"arrays of at most {RATIO} times the file", got)
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        for name, array in found.items():
            if not isinstance(array, np.ndarray):
                raise _unreadable(path, "arrays", f"the file {name}")
        return found
    except OutputError:
        raise
    except OSError as error:
        raise _unreadable(path, "an .npz", error.strerror or str(error)) from None
    except Exception as error:  # Damaged archives raise a dozen types.
        objects = "Object arrays" in str(error) or "pickle" in str(error).lower()
        what = "Python objects, which are not read" if objects else f"damage, {error}"
        raise _unreadable(path, "arrays of numbers", what) from None


def _unreadable(path: Path, expected: str, got: str) -> OutputError:
    return OutputError(f"Unreadable file: expected {expected} in {path}, got {got.rstrip('.')}.")


def environment() -> dict[str, Any]:
    """The versions and the kind of machine that a result depends on."""
    packages = {}
    for package in ("lstm-jax", "jax", "jaxlib", "numpy", "optax", "matplotlib", "torch"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed"
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "packages": packages,
    }


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if isinstance(data, np.ndarray):
        return _plain(data.tolist())
    if isinstance(data, (float, np.floating)):
        return float(data) if np.isfinite(data) else str(float(data))
    if isinstance(data, np.integer):
        return int(data)
    if isinstance(data, Path):
        return str(data)
    return data
