"""Formulas become MathML in the build, so that a built page needs neither a network nor a script.

MathJax would be a script of a megabyte, from elsewhere or carried along; pictures (`sphinx.ext.imgmath`)
need LaTeX on the machine that builds, do not follow the colours and the size of the text, and cannot be read
aloud. MathML is text: Chromium (from 109 on), Firefox and Safari lay it out. `latex2mathml` writes it.

In a page a formula is LaTeX between dollars, or in a fence that opens with ``math``, as code hosts have it.
"""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
UPRIGHT = re.compile(r'<mrow>((?:<mi mathvariant="normal">\w</mi>){2,})</mrow>')
STOP = re.compile("[,.;:!?)\\]，。；：、！？）】”]+")
PARTIAL, SLASH = "<mo>&#x02202;</mo>", "<mo>&#x0002F;</mo>"
UNREAD = re.compile(r">(\\[^<]*|&(?!#)[^<]*)<")


def mathml(formula: str, display: str) -> str:
    r"""A formula as MathML.

    Raises:
        ValueError: something in it was not understood.
    """
    try:
        made = convert(formula, display=display)
    except Exception as why:  # it raises a type of its own for each kind of mistake
        raise ValueError(f"{formula}: {type(why).__name__}") from why
    found = UNREAD.search(made)
    if found:
        raise ValueError(f"{formula}: {found[1]} is not understood")
    # As TeX spaces them: \mathrm{diag} is one word, and nothing stands apart in a derivative.
    made = UPRIGHT.sub(lambda word: f"<mi>{re.sub('<[^>]*>', '', word[1])}</mi>", made)
    made = made.replace(PARTIAL, '<mi mathvariant="normal">&#x02202;</mi>')
    return made.replace(SLASH, '<mo lspace="0" rspace="0">/</mo>')


def visit(display: str) -> Any:
    """What writes a formula into a page, ``display`` being inline or block."""

    def written(self: Any, node: nodes.Element) -> None:
        try:
            made = mathml(node.astext(), display)
        except ValueError as why:
            logger.warning("A formula cannot be set. %s", why, location=node)
            made = ""
        if display == "block":
            self.body.append(f'<div class="math">{made}</div>\n')
        else:
            self.body.append(f'<span class="math">{made}{self.encode(node.get("stop", ""))}</span>')
        raise nodes.SkipNode

    return written


def keep_stops(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Take the comma behind a formula to the formula, so that no line begins with it."""
    for formula in list(doctree.findall(nodes.math)):
        behind = formula.next_node(nodes.Text, descend=False, siblings=True)
        if behind is None or formula.parent.index(behind) != formula.parent.index(formula) + 1:
            continue
        found = STOP.match(behind.astext())
        if found:
            formula["stop"] = found[0]
            formula.parent.replace(behind, nodes.Text(behind.astext()[found.end() :]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(visit("inline"), None),
        block_renderers=(visit("block"), None),
    )
    app.connect("doctree-resolved", keep_stops)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
