"""Every Python block of README.md and of the guide runs, and prints what stands behind its ``# ->``."""

import contextlib
import io
import re
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path

import jax
import pytest

from lstm_jax.weights import gate_order

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    "docs/analysis.md",
    "docs/demo.md",
    "docs/gpu_and_tpu.md",
    "docs/how_fast.md",
    "docs/layers_and_weights.md",
    "docs/training.md",
    "docs/many_devices.md",
]
if not all((CHECKOUT / page).is_file() for page in PAGES):
    pytest.skip("needs a checkout", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings(  # Keras's own, when it hands its weights out
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORT = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)
PRINTED = re.compile(r"# -> (.*)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")
PEERS = {"torch", "keras", "onnx", "onnxruntime", "equinox", "haiku", "grain"}


def text_of(page):
    return (CHECKOUT / page).read_text(encoding="utf-8")


def blocks_of(page):
    """``(line, code, peers that it imports)`` of every block."""
    text = text_of(page)
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start(1))
        yield line, found[1], sorted(PEERS & set(IMPORT.findall(found[1])))


def execute(page, line, code, namespace):
    """Run a block where the reader would: in an ordinary program, without this test run's strictness."""
    printed = io.StringIO()
    program = compile("\n" * line + code, page, "exec")  # a traceback then names the page's line
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        with contextlib.redirect_stdout(printed):
            exec(program, namespace)
    expected = PRINTED.findall(code)
    assert not expected or printed.getvalue().splitlines() == expected, f"{page}, line {line}"


def run_page(page):
    """Run a page's blocks but those of peers: what each of the latter would find, by its line."""
    namespace = {"__name__": "__main__"}
    found = {}
    for line, code, peers in blocks_of(page):
        if peers:
            found[line] = dict(namespace)
        else:
            execute(page, line, code, namespace)
    return found


before_peers = cache(run_page)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What a block writes goes to a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page):
    before_peers(page)


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize(
    ("page", "line"),
    [(page, line) for page in PAGES for line, _, peers in blocks_of(page) if peers],
)
def test_block_of_a_peer_runs(page, line, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    ((code, peers),) = [(code, peers) for at, code, peers in blocks_of(page) if at == line]
    for name in peers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, while they are imported
            pytest.importorskip(name)
            import_module(name)
    execute(page, line, code, dict(before_peers(page)[line]))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for path, anchor in LINK.findall(text_of(page)):
        target = (CHECKOUT / page).parent / path if path else CHECKOUT / page
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles]
            assert anchor[1:] in slugs, anchor


def rows(text):
    """The rows of Markdown tables, cells without the spaces that align them."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_guide_has_the_table_of_gate_orders():
    in_guide = rows(text_of("docs/layers_and_weights.md"))
    for row in rows(gate_order.__doc__):
        if not row[0].startswith("-"):
            assert row in in_guide, row
