"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import pytest
from comparison import slow


def modules():
    for name in ("lstm_jax", "gradient_flow"):
        package = importlib.import_module(name)
        yield name
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                yield module.name


LONGER = {
    "gradient_flow.foreign",
    "gradient_flow.inspections.inspection",
    "gradient_flow.measurements.by_layer",
    "gradient_flow.measurements.credit",
    "gradient_flow.measurements.detours",
    "gradient_flow.measurements.gate_paths",
    "gradient_flow.measurements.jacobian_norms",
    "gradient_flow.measurements.lyapunov",
    "gradient_flow.measurements.random_probes",
    "gradient_flow.measurements.training_watch",
    "gradient_flow.parallel_in_time.newton_states",
    "gradient_flow.parallel_in_time.products",
    "gradient_flow.pictures.comparison_figures",
    "gradient_flow.verdicts.audit",
    "gradient_flow.verdicts.diagnose",
    "lstm_jax.tasks.long_lag",
    "lstm_jax.training.gradient_penalty",
}
"""Modules whose examples take more than a second, nearly all of it XLA's compiler."""


def test_the_modules_with_longer_examples_are_there():
    assert set(modules()) >= LONGER


@pytest.mark.parametrize("name", [slow(name) if name in LONGER else name for name in modules()])
def test_examples_run(name):
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    # A reader has not switched on the strictness of this test run.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        failures, attempted = doctest.testmod(module, optionflags=flags)
    assert failures == 0
    written = sum(
        line.lstrip().startswith(">>> ") for line in inspect.getsource(module).splitlines()
    )
    assert attempted == written, "an example was not found by doctest"
