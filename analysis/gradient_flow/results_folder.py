"""The folder of a run: earlier results are not overwritten without --overwrite, unfinished ones do not count.

A run writes into a hidden folder inside its folder, and `publish` moves the files out at the end,
``results.json`` last. A folder with that file is finished. Until then, an earlier run that will be replaced
stays complete.
"""

import json
import os
import platform
import shutil
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lstm_jax.atomic_write import write_file

FINISHED = "results.json"
STAGE = ".unfinished"


class OutputError(ValueError):
    """A folder that cannot take the results."""


def claim_folder(out: Path | None, name: str, *, overwrite: bool) -> Path:
    """Make sure, before any long work, that results can be written.

    Args:
        out: the folder; if None, the next free ``runs/<name>-001``, ``-002``, … is made.
        name: of the kind of run.
        overwrite: whether files in ``out`` may be replaced.

    Returns:
        The folder, which exists and can be written.

    Raises:
        OutputError: a folder that holds files already, or that cannot be made or written.
    """
    try:
        if out is None:
            out = _next_free(name)
        elif out.is_dir() and not overwrite:
            names = sorted(path.name for path in out.iterdir() if path.name != STAGE)
            if names:
                content = "a finished run" if FINISHED in names else names[0]
                raise OutputError(
                    f"Occupied folder: expected a new or empty folder, got {out} with {content} in it. "
                    "Name another --out or add --overwrite."
                )
        stage = out / STAGE
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
    except OSError as error:
        raise OutputError(
            f"Unwritable folder: expected to write into {out}, got: {error.strerror}."
        ) from None
    return out


def _next_free(name: str) -> Path:
    for number in range(1, 10**6):
        folder = Path("runs") / f"{name}-{number:03d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise OutputError(f"No free number: expected one for runs/{name}-…, got none.")


def publish(folder: Path, *, finishes: bool = True) -> None:
    """Move the written files out of the hidden folder, ``results.json`` last.

    Args:
        folder: from `claim_folder`.
        finishes: whether these are a run's results, which replace those of an earlier one.
    """
    stage = folder / STAGE
    if finishes:
        (folder / FINISHED).unlink(missing_ok=True)
    for path in sorted(stage.iterdir(), key=lambda path: path.name == FINISHED):
        os.replace(path, folder / path.name)
    stage.rmdir()


def write_json(path: Path, data: Any) -> None:
    """Write JSON, in which a number that is not finite becomes a string (``"inf"``)."""
    text = json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_file(path, write)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as one ``.npz``."""
    write_file(path, lambda partial: np.savez_compressed(partial, **arrays))  # type: ignore[arg-type]


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a finished run: the content of ``results.json`` and ``arrays.npz``.

    Raises:
        OutputError: a folder without a finished run, or one that cannot be read.
    """
    try:
        results = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        with np.load(folder / "arrays.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if not isinstance(results, dict):
            raise ValueError(f"{FINISHED} has no results")
        return results, arrays
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise OutputError(
            f"No finished run: expected {FINISHED} and arrays.npz in {folder}, got no {missing}."
        ) from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise OutputError(
            f"Unreadable run: expected {FINISHED} and arrays.npz in {folder}, got: {error}."
        ) from None


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
