"""The house: which room may import from which, and what an import loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not (CHECKOUT / "src").is_dir(), reason="needs the checkout, not the wheel"
)

GROUND = {
    "array_types",
    "validation",
    "initializers",
    "dropout",
    "atomic_write",
    "folder_lock",
    "held_arguments",
}
"""Files at the root of `lstm_jax` that any room may import."""

LSTM_JAX = {
    "jax_extensions": set(),
    "cells": {"jax_extensions"},
    "time_loop": {"jax_extensions", "cells"},
    "gradients": {"jax_extensions", "cells", "time_loop"},
    "backends": {"jax_extensions", "cells", "time_loop", "gradients"},
    "unrolling": {"cells", "time_loop", "backends"},
    "layers": {"cells", "time_loop", "backends", "unrolling"},
    "weights": {"cells", "layers"},
    "interfaces": {"cells", "time_loop", "backends", "unrolling", "layers", "weights"},
    "tasks": set(),
    "datasets": set(),
    "training": {
        "jax_extensions",
        "cells",
        "time_loop",
        "gradients",
        "backends",
        "datasets",
    },
    "language": {"cells", "backends", "layers", "training"},
    "models_on_disk": {"cells", "layers", "weights", "training", "language"},
    "command_line": {"cells", "layers", "training", "language", "models_on_disk"},
    "__main__": {"command_line"},
    "nnx": {"backends", "interfaces", "weights"},
    "linen": {"backends", "interfaces", "weights"},
}
"""Which rooms each room imports from, besides the ground."""

GRADIENT_FLOW = {
    "step_jacobians": set(),
    "long_products": {"step_jacobians"},
    "parallel_in_time": {"step_jacobians", "long_products"},
    "measurements": {"step_jacobians", "long_products"},
    "verdicts": {"step_jacobians", "measurements"},
    "inspections": {"step_jacobians", "measurements", "verdicts"},
    "results_folder": set(),
    "result_display": set(),
    "pictures": {"measurements", "results_folder"},
    "foreign": set(),
    "pages": {"measurements", "verdicts", "results_folder"},
    "command_line": {
        "measurements",
        "verdicts",
        "inspections",
        "pictures",
        "pages",
        "results_folder",
    },
    "__main__": {"command_line"},
}

HEAVY = {
    "flax",
    "grain",
    "matplotlib",
    "onnx",
    "optax",
    "orbax",
    "plotly",
    "safetensors",
    "scipy",
    "tqdm",
    "tyro",
}
"""Packages that are loaded where they are used, not with the two packages."""


def imports_of(path):
    """Every module that a file imports, at its top and inside of functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def rooms(package):
    """``(file, its room, module it imports)`` of a package; the room of ``__init__`` is the package."""
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        room = place.parts[0].removesuffix(".py")
        for module in imports_of(path):
            yield place, room, module


@pytest.mark.parametrize(
    ("package", "table", "ground"),
    [
        (CHECKOUT / "src" / "lstm_jax", LSTM_JAX, GROUND),
        (
            CHECKOUT / "analysis" / "gradient_flow",
            GRADIENT_FLOW,
            {"results_folder", "result_display"},
        ),
    ],
    ids=["lstm_jax", "gradient_flow"],
)
def test_each_room_imports_from_the_rooms_that_it_may(package, table, ground):
    wrong, found = [], {room: set() for room in table}
    for place, room, module in rooms(package):
        parts = module.split(".")
        if parts[0] != package.name or len(parts) == 1 or room == "__init__":
            continue
        if parts[1] == room:
            continue
        if room in ground:
            allowed = ground
        else:
            allowed = table[room] | ground
            found[room].add(parts[1])
        if parts[1] not in allowed:
            wrong.append(f"{place} imports {module}")
    assert not wrong
    # The table says no more than what is there.
    assert {room: table[room] - came for room, came in found.items() if table[room] - came} == {}


def test_arrows_point_one_way():
    """Experiments import the microscope, the microscope the network, and not the other way round."""
    for folder, refused in {
        "src": {"gradient_flow", "experiments", "benchmarks"},
        "analysis": {"experiments", "benchmarks"},
    }.items():
        for path in (CHECKOUT / folder).rglob("*.py"):
            assert not {name.split(".")[0] for name in imports_of(path)} & refused, path


def test_one_file_sets_the_precision_of_matrix_products():
    """What is traced later than it is called goes through `at_precision`, so that nobody sets it too late."""
    files = [*(CHECKOUT / "src").rglob("*.py"), *(CHECKOUT / "analysis").rglob("*.py")]
    setting = [path for path in files if "default_matmul_precision(" in path.read_text("utf-8")]
    assert [path.name for path in setting] == ["matmul_precision.py"]


@pytest.mark.parametrize("room", [*LSTM_JAX, *GRADIENT_FLOW])
def test_each_room_says_what_it_is_for(room):
    package = CHECKOUT / ("src/lstm_jax" if room in LSTM_JAX else "analysis/gradient_flow")
    if (package / f"{room}.py").exists():
        return
    text = ast.get_docstring(ast.parse((package / room / "__init__.py").read_text("utf-8")))
    assert 4 <= len(text.splitlines()) <= 22 and "Start with" in text, room


def test_importing_both_packages_loads_nothing_heavy():
    program = (
        "import sys, jax; before = set(sys.modules); import lstm_jax, gradient_flow; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    assert {"lstm_jax", "gradient_flow"} <= set(loaded)
    assert not HEAVY & set(loaded)
