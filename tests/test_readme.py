"""Every Python block of the pages runs, and prints what stands behind its ``# ->``."""

import re
import warnings
from functools import cache
from importlib import import_module

import pytest
from page_blocks import CHECKOUT, blocks_of, execute, figures, pages, run_page, text_of

from lstm_jax.weights import gate_order

if not (CHECKOUT / "docs").is_dir():
    pytest.skip("needs a checkout", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings(  # Keras's own, when it hands its weights out
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
PAGES = pages()
WITHOUT_BLOCKS = {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("docs/**/*.md")} - {
    *PAGES
}
LINKED = [*PAGES, *sorted(WITHOUT_BLOCKS)]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")

before_peers = cache(run_page)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What a block writes goes to a folder of its own, and what it draws is drawn nowhere."""
    monkeypatch.chdir(tmp_path)
    yield
    for figure, _ in figures():
        figure.draw_without_rendering()


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


@pytest.mark.parametrize("page", LINKED)
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
