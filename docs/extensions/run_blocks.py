"""Runs every Python block of the pages that are built, and shows beneath it what it printed and drew.

Pages are plain Markdown, with blocks that open with three backticks and ``python``; so they read on a code
host as they do here. `tests/page_blocks.py` runs them, each page in a program of its own. The tests use the
same runner, so there is one way of running.

A block whose lines say what they print, behind ``# ->``, has said it, and nothing is shown beneath. The
blocks of a translated page are those of its original, so what that printed and drew is shown there, too.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from page_blocks import BLOCK, CHECKOUT, PRINTED, blocks_of, pages, translations
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
FOLDER = CHECKOUT / "build" / "page_blocks"
AT_ONCE = 2
"""Pages that run at the same time."""


def run_pages(app: Sphinx, env: Any, docnames: list[str]) -> None:
    """Run the blocks of the pages that will be read, and warn where one fails."""
    chosen = [page for page in pages() if page.removesuffix(".md") in docnames]
    chosen.sort(key=lambda page: -len(list(blocks_of(page))))  # the longest first

    def run(page: str) -> subprocess.CompletedProcess[str]:
        (FOLDER / page / "blocks.json").unlink(missing_ok=True)
        command = [sys.executable, str(CHECKOUT / "tests" / "page_blocks.py"), page]
        roots = [str(CHECKOUT / "src"), str(CHECKOUT / "analysis")]
        path = os.pathsep.join([*roots, *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.run(
            [*command, str(FOLDER / page)],
            capture_output=True,
            text=True,
            # As `make test` does: half of what a page takes is XLA's compiler.
            env={"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | os.environ | {"PYTHONPATH": path},
        )

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for page, done in zip(chosen, pool.map(run, chosen), strict=True):
            if done.returncode:
                logger.warning("A block of %s failed.\n%s", page, done.stderr)
                continue
            found = json.loads((FOLDER / page / "blocks.json").read_text("utf-8"))
            logger.info("%s: %d blocks ran", page, len(found["blocks"]))
            if found["left"]:
                lines = ", ".join(map(str, found["left"]))
                logger.info("%s: not run for want of a package: lines %s", page, lines)


def show(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put under each block what it printed and drew."""
    page = f"{docname}.md"
    origin = dict(translations()).get(page, page)
    written = FOLDER / origin / "blocks.json"
    if origin not in pages() or not written.is_file():
        return
    found = json.loads(written.read_text("utf-8"))
    text = source[0]
    if BLOCK.findall(text) != [code for _, code, _ in blocks_of(origin)]:
        logger.warning("Expected the blocks of %s on %s, got others.", origin, page)
        return
    lines = iter([line for line, _, _ in blocks_of(origin)])

    def with_output(block: Any) -> str:
        ran = found["blocks"].get(str(next(lines)))
        if ran is None:
            return (
                block[0]
                + "\n\n*Needs a package that this site was built without; the tests run it.*\n"
            )
        parts = [block[0]]
        if ran["printed"].strip() and not PRINTED.search(block[1]):
            parts.append(
                f"````{{code-block}} text\n:class: printed\n\n{ran['printed'].rstrip()}\n````"
            )
        for name, says in ran["figures"]:
            place = os.path.relpath(FOLDER / origin / name, (Path(app.srcdir) / page).parent)
            parts.append(f"![{says}]({place})")
        return "\n\n".join(parts) + "\n"

    source[0] = BLOCK.sub(with_output, text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("env-before-read-docs", run_pages)
    app.connect("source-read", show)
    return {"parallel_read_safe": True}
