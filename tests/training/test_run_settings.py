"""Settings of a run: stored by value, so that the same are the same tomorrow, or refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.problems import run

from lstm_jax import training
from lstm_jax.training.run_settings import SettingsError, settings_by_value


class Pair(NamedTuple):
    a: int
    b: float


@dataclass
class Point:
    x: float
    where: Path


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (None, None),
        (True, True),
        (np.bool_(False), False),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.inf, "inf"),
        ((1, "a"), [1, "a"]),
        (np.arange(3), [0, 1, 2]),
        (jnp.zeros((1, 2)), [[0.0, 0.0]]),
        (np.zeros(20, np.uint8), "uint8[20], CRC-32 0fd59b8d"),
        (jnp.bfloat16, "bfloat16"),
        (np.dtype("int8"), "int8"),
        (np.float64, "float64"),
        (Path("a/b"), "a/b"),
        (Pair(1, 2.0), {"a": 1, "b": 2.0}),
        (Point(1.0, Path("c")), {"x": 1.0, "where": "c"}),
        ({"deep": [{"er": (1,)}]}, {"deep": [{"er": [1]}]}),
    ],
)
def test_a_setting_is_stored_by_value(given, stored):
    found = settings_by_value({"name": given})["name"]
    assert found == stored and type(found) is type(stored)


def test_long_arrays_that_differ_are_stored_differently():
    ones, zeros = np.ones(20), np.zeros(20)
    assert settings_by_value({"a": ones}) != settings_by_value({"a": zeros})
    key = settings_by_value({"key": jax.random.key(0)})
    assert key == settings_by_value({"key": jax.random.key(0)})
    assert key != settings_by_value({"key": jax.random.key(1)})


def itself():
    settings = {}
    settings["again"] = settings
    return settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": np.nan}, "expected settings.rate as a number, got NaN"),
        ({"a": [1, jnp.nan]}, "expected settings.a.1 as a number, got NaN"),
        ({"a": np.array([np.nan])}, "expected settings.a.0 as a number, got NaN"),
        ({"a": {"b": lambda x: x}}, "expected settings.a.b as .*, got a function"),
        ({"a": optax.sgd(0.1)}, "expected settings.a.init as .*, got a function"),
        ({"a": object()}, "got an object of type object"),
        ({"a": {1, 2}}, "got an object of type set"),
        ({"a": b"x"}, "got an object of type bytes"),
        ({"a": {1: 2}}, "expected texts as names in settings.a, got 1"),
        ({"a": np.array([None])}, "got an array of objects"),
        ([1, 2], "expected settings as a dict, got list"),
        (itself(), "contain themselves"),
    ],
)
def test_a_setting_without_a_value_is_refused(tmp_path, without_type_checker, settings, message):
    with pytest.raises(SettingsError, match=message):
        settings_by_value(settings)
    with pytest.raises(training.RunError, match=message):
        run(2, folder=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["seed", "accumulate", "compute_dtype", "data"])
def test_the_names_of_fit_itself_are_refused(name):
    with pytest.raises(training.RunError, match=f"names other than seed, .*, got {name!r}"):
        run(2, settings={name: 1})
