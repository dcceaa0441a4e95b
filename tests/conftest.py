"""Strict settings for every test, and the fixtures that come from outside the checkout."""

import importlib.metadata
import importlib.util
import itertools
import json
import os
import shutil
import sys
import time
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pytest

# The hook checks every annotation of the two packages at run time; it has to come before their import.
if importlib.util.find_spec("jaxtyping") and importlib.util.find_spec("beartype"):
    from jaxtyping import install_import_hook

    # As for a static checker, an int will do for a float.
    checker = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    install_import_hook(["lstm_jax", "gradient_flow"], checker)

# Where tests are to compile fast: without the fusion emitters half of the time, each program in one piece a
# tenth less. JAX 0.12 has no such flags.
if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1":
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags = os.environ.get("XLA_FLAGS", "")
        flags += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ["XLA_FLAGS"] = flags

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

CHECKOUT = Path(__file__).resolve().parents[1]
# Neither is in the wheel; where they are, they import from the checkout's root.
collect_ignore = [name for name in ("benchmarks", "experiments") if not (CHECKOUT / name).is_dir()]
if not collect_ignore and str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))

REQUIRED = {
    "browser": "LSTM_JAX_REQUIRE_BROWSER",
    "compiler": "LSTM_JAX_REQUIRE_COMPILER",
    "gpu": "LSTM_JAX_REQUIRE_GPU",
    "peer": "LSTM_JAX_REQUIRE_PEERS",
}
"""By the marker of a test that may be left out, the variable by which it must not."""
MAPS = Path("/proc/self/maps")
MOST_MAPS = 30_000
tests_run = itertools.count(1)


def pytest_runtest_teardown():
    """Forget compiled programs in time.

    Each holds memory maps, and XLA crashes in a process that has as many as Linux allows, 65530.
    """
    if next(tests_run) % 10 == 0 and MAPS.exists():
        if MAPS.read_bytes().count(b"\n") > MOST_MAPS:
            jax.clear_caches()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A test against another framework or in a browser is slow: to start either takes seconds."""
    for item in items:
        if item.get_closest_marker("peer") or item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def x64():
    """Run the test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def standard_promotion():
    """JAX's ordinary promotion, which users have and which Optax and Flax need."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def without_type_checker():
    """Leave refusals to the library itself, as for a user who has no `jaxtyping`."""
    if not importlib.util.find_spec("jaxtyping"):
        yield
        return
    from jaxtyping import config

    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def chromium():
    """A browser: Debian's chromium, or the one that CHROMIUM names."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if path is None:
        pytest.skip("no chromium: CHROMIUM names none, and none is on the path")
    with sync_api.sync_playwright() as playwright:
        # A container's user may be root, whom chromium's sandbox refuses.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real data sets that cannot be part of the project: $LSTM_JAX_TEST_DATA."""
    named = os.environ.get("LSTM_JAX_TEST_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("needs real data: LSTM_JAX_TEST_DATA names no folder")
    return Path(named)


@pytest.fixture(scope="session")
def published_values():
    """Numbers that others printed, kept as decimals so that their digits can be counted."""
    text = (Path(__file__).parent / "published_values.json").read_text(encoding="utf-8")
    return json.loads(text, parse_float=Decimal)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where the environment requires it, a test that was left out is a failure."""
    report = yield
    if not report.skipped or hasattr(report, "wasxfail"):
        return report
    marks = {mark.name for mark in item.iter_markers()}
    for name, variable in REQUIRED.items():
        if name in marks and os.environ.get(variable) == "1":
            report.outcome = "failed"
            report.longrepr = f"{variable}=1, but skipped: {report.longrepr}"
    return report


@pytest.fixture
def bounded_work():
    """Fail a test that allocates more than 64 MiB, or takes ten seconds: a small file cannot need them."""
    tracemalloc.start()
    start = time.perf_counter()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20
    assert time.perf_counter() - start < 10
