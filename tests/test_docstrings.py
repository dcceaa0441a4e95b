"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import pytest


def modules():
    for name in ("lstm_jax", "gradient_flow"):
        package = importlib.import_module(name)
        yield name
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                yield module.name


@pytest.mark.parametrize("name", list(modules()))
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
