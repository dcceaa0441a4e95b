"""The Python blocks of a page, and how they run: for the tests, and for the site, which shows their output.

    python tests/page_blocks.py docs/training.md FOLDER

runs a page's blocks in the order of the page and leaves in the folder what each printed (``blocks.json``) and
drew (a PNG for each figure). A line that prints may say what it prints, behind ``# ->``; then it has to.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORT = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)
PRINTED = re.compile(r"# -> (.*)$", re.MULTILINE)
PEERS = {"torch", "keras", "onnx", "onnxruntime", "equinox", "haiku", "grain"}
"""Packages that a reader may not have; a block that imports one stands by itself."""

PAGES = ("README.md", "docs/**/*.md", "experiments/*/README.md", "benchmarks/README.md")
TRANSLATED = "docs/zh/"
"""Pages that say in Chinese what those of the same names say in English: their blocks are the same."""
DOTS_PER_INCH = 110


def pages():
    """Every page whose Python blocks run, by its path in the checkout."""
    found = [path for pattern in PAGES for path in sorted(CHECKOUT.glob(pattern))]
    names = [
        str(path.relative_to(CHECKOUT)) for path in found if BLOCK.search(path.read_text("utf-8"))
    ]
    return [name for name in names if not name.startswith(TRANSLATED)]


def translations():
    """``(page, the page that it translates)`` of every translated page."""
    found = sorted((CHECKOUT / TRANSLATED).glob("*.md"))
    return [(f"{TRANSLATED}{path.name}", f"docs/{path.name}") for path in found]


def text_of(page):
    return (CHECKOUT / page).read_text(encoding="utf-8")


def blocks_of(page):
    """``(line, code, peers that it imports)`` of every block."""
    text = text_of(page)
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start(1))
        yield line, found[1], sorted(PEERS & set(IMPORT.findall(found[1])))


def execute(page, line, code, namespace):
    """Run a block where the reader would, in an ordinary program; what it printed.

    Raises:
        AssertionError: it printed something else than it says.
    """
    import jax

    printed = io.StringIO()
    program = compile("\n" * line + code, page, "exec")  # a traceback then names the page's line
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        with contextlib.redirect_stdout(printed):
            exec(program, namespace)
    expected = PRINTED.findall(code)
    got = printed.getvalue()
    if expected and got.splitlines() != expected:
        raise AssertionError(f"{page}, line {line}: expected {expected}, got {got.splitlines()}.")
    return got


def figures():
    """The figures that are open, each with a text for who cannot see it; they are closed."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        titles = [figure.get_suptitle(), *(axis.get_title() for axis in figure.axes)]
        yield figure, "; ".join(filter(None, titles)) or "what the lines above draw"
        pyplot.close(figure)


def run_page(page, each=lambda line, printed: None, peers_too=False):
    """Run a page's blocks, those of peers apart.

    Args:
        page: its path in the checkout.
        each: called after each block with its line and what it printed.
        peers_too: whether a block runs whose peers are all installed, in a namespace that ends with it.

    Returns:
        What each block of a peer that did not run would find, by its line.
    """
    namespace = {"__name__": "__main__"}
    left = {}
    for line, code, peers in blocks_of(page):
        if not peers:
            each(line, execute(page, line, code, namespace))
        elif peers_too and all(importlib.util.find_spec(name) for name in peers):
            each(line, execute(page, line, code, dict(namespace)))
        else:
            left[line] = dict(namespace)
    return left


def write_page(page, folder):
    """Run a page in an empty folder, and write what its blocks printed and drew."""
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    blocks = {}

    def each(line, printed):
        drawn = []
        for figure, says in figures():
            name = f"{Path(page).stem}_{line}_{len(drawn)}.png"
            figure.savefig(folder / name, dpi=DOTS_PER_INCH, bbox_inches="tight")
            drawn.append([name, says])
        blocks[line] = {"printed": printed, "figures": drawn}

    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        left = run_page(page, each, peers_too=True)
    found = {"blocks": blocks, "left": sorted(left)}
    (folder / "blocks.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    write_page(*sys.argv[1:])
