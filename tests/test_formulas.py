"""Formulas of the pages: a code host reads them as the site does (the build sets every one, or fails)."""

import re

import pytest
from page_blocks import CHECKOUT

if not (CHECKOUT / "docs").is_dir():
    pytest.skip("needs a checkout", allow_module_level=True)

PAGES = [
    path
    for path in sorted(CHECKOUT.glob("docs/**/*.md"))
    if re.search(r"\$[^$\n]+\$", path.read_text("utf-8"))
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$([^$\n]+)\$")
MARKED = re.compile(r"[*|<>]{2}|\||\*|[})'][_]|\\[^A-Za-z]|^\s|\s$|\\operatorname|\\begin")
"""What Markdown takes for a mark of its own, in a line or a table, before a code host sees the formula."""


def formulas(path):
    """``(inline, displayed)`` of a page."""
    text = path.read_text("utf-8")
    displayed = [body for kind, body in FENCE.findall(text) if kind == "math"]
    prose = re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))
    assert prose.count("$") % 2 == 0
    return INLINE.findall(prose), displayed


def test_the_derivation_is_typeset():
    inline, displayed = formulas(CHECKOUT / "docs" / "derivation.md")
    assert len(inline) > 300 and len(displayed) >= 15


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_formulas_read_on_a_code_host(path):
    inline, displayed = formulas(path)
    assert [formula for formula in inline if MARKED.search(formula)] == []
    # Those are what GitHub refuses, or what would be an equation within an equation.
    refused = re.compile(r"\\operatorname|\\begin\{(?:align|equation|gather)|\\text")
    assert [formula for formula in displayed if refused.search(formula)] == []


def test_a_formula_that_would_not_read_is_noticed():
    for formula in ("a | b", "a * b", "W_{x}_t", "s'_t", r"a \, b", r"\operatorname{diag}", " a"):
        assert MARKED.search(formula), formula
    for formula in ("a < b", "s_{t-1}'", r"\mathrm{diag}(v) W_{hi}^\top"):
        assert not MARKED.search(formula), formula
