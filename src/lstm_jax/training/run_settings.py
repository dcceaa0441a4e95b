"""The settings that define a run, by value: what a checkpoint says of its run must mean the same tomorrow.

Numbers, texts, True, False, None, lists and dicts stay as they are. Arrays, dtypes, paths, named tuples and
dataclasses become such values. What has no value that JSON could hold (a function, an object) is refused.
"""

import dataclasses
import math
import os
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.validation import show_shape

LONGEST_ARRAY = 16
"""Numbers up to which an array is stored as a list; of a longer one, dtype, shape and checksum."""


class SettingsError(ValueError):
    """Settings that have no value."""


def settings_by_value(settings: Any, taken: tuple[str, ...] = ()) -> dict[str, Any]:
    """Settings as JSON holds them.

    Args:
        settings: names and values.
        taken: names that they may not have.

    Raises:
        SettingsError: no names, a name that is taken, a NaN, or a value that JSON cannot hold; naming it.

    Example:
        >>> import pathlib, jax.numpy as jnp
        >>> from lstm_jax.training.run_settings import settings_by_value
        >>> settings_by_value({"dtype": jnp.bfloat16, "rates": (0.1, 0.2), "text": pathlib.Path("a.txt")})
        {'dtype': 'bfloat16', 'rates': [0.1, 0.2], 'text': 'a.txt'}
    """
    if not isinstance(settings, Mapping):
        raise SettingsError(
            f"Settings mismatch: expected settings as a dict, got {type(settings).__name__}."
        )
    for name in settings:
        if name in taken:
            raise SettingsError(
                f"Settings mismatch: expected names other than {', '.join(taken)}, which are stored with "
                f"every run, got {name!r}."
            )
    try:
        found: dict[str, Any] = _by_value(settings, "settings")
    except RecursionError:
        raise SettingsError(
            "Settings mismatch: expected settings of a few levels, got some that contain themselves."
        ) from None
    return found


def _by_value(value: Any, name: str) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer, np.bool_)):
        return value.item() if isinstance(value, np.generic) else int(value)
    if isinstance(value, (float, np.floating)):
        return _number(float(value), name)
    if isinstance(value, (np.ndarray, jax.Array)):
        return _array(value, name)
    if isinstance(value, os.PathLike) and isinstance(os.fspath(value), str):
        return os.fspath(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SettingsError(
                    f"Settings mismatch: expected texts as names in {name}, got {key!r}."
                )
        return {key: _by_value(part, f"{name}.{key}") for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _by_value(value._asdict(), name)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _by_value(fields, name)
    if isinstance(value, (list, tuple)):
        return [_by_value(part, f"{name}.{n}") for n, part in enumerate(value)]
    dtype = _dtype_name(value)
    if dtype is not None:
        return dtype
    raise SettingsError(
        f"Settings mismatch: expected {name} as a number, a text, an array, a list or a dict, got "
        f"{'a function' if callable(value) else f'an object of type {type(value).__name__}'}. Name it by a "
        "text."
    )


def _number(value: float, name: str) -> float | str:
    if math.isnan(value):
        # It is not equal to itself: no run could be resumed.
        raise SettingsError(f"Settings mismatch: expected {name} as a number, got NaN.")
    return value if math.isfinite(value) else str(value)


def _array(value: Any, name: str) -> Any:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.dtype == object:
        raise SettingsError(
            f"Settings mismatch: expected {name} as numbers, got an array of objects."
        )
    if array.size > LONGEST_ARRAY:
        checksum = zlib.crc32(np.ascontiguousarray(array).tobytes())
        return f"{array.dtype.name}{show_shape(array.shape)}, CRC-32 {checksum:08x}"
    return _by_value(array.tolist(), name)


def _dtype_name(value: Any) -> str | None:
    """The name of a dtype or of a scalar type, ``jnp.float32``; None for anything else."""
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if isinstance(getattr(value, "dtype", None), np.dtype) and not hasattr(value, "shape"):
        return str(value.dtype.name)
    return None
