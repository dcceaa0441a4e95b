"""A folder of results: never overwritten unasked, never half-written and taken for whole.

Every file is written beside its final name and then renamed. ``results.json`` comes last, so a folder that
holds it is finished.
"""

import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

FINISHED = "results.json"


class OutputError(ValueError):
    """A folder that cannot take the results."""


def claim_folder(out: Path | None, name: str, *, overwrite: bool) -> Path:
    """Make sure, before any long work, that results can be written.

    Args:
        out: the folder; if None, the next free ``runs/<name>-001``, ``-002``, … is made.
        name: of the kind of run.
        overwrite: whether a finished run's results in ``out`` may be replaced.

    Returns:
        The folder, which exists and can be written.

    Raises:
        OutputError: a folder that holds a finished run, or that cannot be made or written.
    """
    if out is None:
        taken = {path.name for path in Path("runs").glob(f"{name}-*")}
        number = next(n for n in range(1, 10**6) if f"{name}-{n:03d}" not in taken)
        out = Path("runs") / f"{name}-{number:03d}"
    if (out / FINISHED).exists() and not overwrite:
        raise OutputError(
            f"Finished run: expected a folder without results, got {out} with {FINISHED} in it; "
            "name another --out or add --overwrite."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"Unwritable folder: expected to write into {out}, got: {error.strerror}."
        ) from None
    return out


def unfinish(folder: Path) -> None:
    """Take back the mark of a finished run, before its files are replaced one by one."""
    (folder / FINISHED).unlink(missing_ok=True)


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path`` with the same ending, then rename it into place."""
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
    """Read a finished run: what ``results.json`` and ``arrays.npz`` hold.

    Raises:
        OutputError: a folder without a finished run, or one that cannot be read.
    """
    try:
        results = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        with np.load(folder / "arrays.npz", allow_pickle=False) as file:
            return results, {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise OutputError(
            f"No finished run: expected {FINISHED} and arrays.npz in {folder}, got no {missing}."
        ) from None
    except (OSError, ValueError) as error:
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
