"""Lay a run's numbers and words into one HTML file that asks nothing of a network.

Every text of a user's file goes through `html.escape`, or through JSON whose ``<``, ``>`` and ``&`` are
escaped. A content security policy names the page's own scripts by their hashes, so that no other script runs
and no request leaves.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from gradient_flow.pages.page_sections import SECTIONS, Section
from gradient_flow.pages.verdict_words import Verdict, shortened

STYLE, FRAME = "page.css", "page.html"
SCRIPTS = (
    "page_tools.js",
    "switches.js",
    "curve_figures.js",
    "map_figure.js",
    "path_figures.js",
    "gate_figures.js",
    "credit_figure.js",
    "cell_picture.js",
    "training_figure.js",
    "start.js",
)
"""In the order in which they run."""

MARKS = {"vanishing": "↘", "exploding": "↗", "steady": "→", "no recurrence": "∅"}
MOST_LINES = 40


class Words(NamedTuple):
    """The texts of a page.

    Attributes:
        title: of the page.
        kind: of the run.
        verdicts: at the top.
        table: heads and rows.
        facts: names and values below the verdict.
        problems: what is missing, a sentence each.
        notes: what was left out, by section.
        command: the exact command, or None.
        environment: the content of ``environment.json``.
    """

    title: str
    kind: str
    verdicts: Sequence[Verdict]
    table: tuple[list[str], list[list[str]]]
    facts: Sequence[tuple[str, str]]
    problems: Sequence[str]
    notes: Mapping[str, Sequence[str]]
    command: str | None
    environment: Mapping[str, Any]


def html_page(words: Words, numbers: Mapping[str, Any], has: Iterable[str], plotly: str) -> str:
    """The page as one text.

    Args:
        words: its texts.
        numbers: what the figures are drawn from, as JSON can hold it.
        has: the figures that have numbers.
        plotly: the script of plotly.js.
    """
    room = files("gradient_flow.pages") / "web"

    def asset(name: str) -> str:
        return (room / name).read_text(encoding="utf-8")

    own = "\n".join(asset(name) for name in SCRIPTS)
    scripts = [as_script(plotly), as_script(f'"use strict";\n(() => {{\n{own}\n}})();')]
    present = set(has)
    parts = {
        "policy": _policy(scripts),
        "title": _text(words.title),
        "style": asset(STYLE),
        "kind": _text(words.kind),
        "verdicts": "\n".join(map(_verdict, words.verdicts)) or _no_verdict(),
        "problems": _problems(words.problems),
        "table": _table(*words.table),
        "facts": _facts(words.facts),
        "links": "\n".join(_link(section, present) for section in SECTIONS),
        "sections": "\n".join(_section(section, present, words.notes) for section in SECTIONS),
        "command": _command(words.command),
        "environment": _environment(words.environment),
        "numbers": json_in_html(numbers),
        "plotly": scripts[0],
        "script": scripts[1],
    }
    # In one pass: a text that looks like a place is left as it is.
    return re.sub(r"<!-- put (\w+) -->", lambda place: parts[place[1]], asset(FRAME))


def as_script(text: str) -> str:
    """A script that no end of a script element stands in."""
    return text.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def json_in_html(data: Any) -> str:
    r"""JSON that ends no script element.

    Example:
        >>> json_in_html({"name": "</script> & more"})
        '{"name":"\\u003c/script\\u003e \\u0026 more"}'
    """
    # Other characters than ASCII are escaped, among them U+2028, U+2029 and halves of surrogate pairs.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(scripts: Sequence[str]) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _text(text: str) -> str:
    return html.escape(shortened(str(text)))


def _items(lines: Iterable[str]) -> str:
    return "".join(f"<li>{_text(line)}</li>" for line in lines)


def _verdict(verdict: Verdict) -> str:
    stage = f'<p class="stage">{_text(verdict.stage)}</p>' if verdict.stage else ""
    mark = f'<span class="mark" aria-hidden="true">{MARKS.get(verdict.word, "•")}</span>'
    body = f'{stage}<p class="headline">{mark} {_text(verdict.headline)}</p>'
    if verdict.findings:
        body += f"<ul>{_items(verdict.findings)}</ul>"
    if verdict.advice:
        body += f"<h3>What would change it</h3><ul>{_items(verdict.advice)}</ul>"
    if verdict.without_help:
        body += (
            f"<details><summary>Tried without help</summary><ul>{_items(verdict.without_help)}</ul>"
            "</details>"
        )
    word = verdict.word.replace(" ", "-") if verdict.word in MARKS else "unknown"
    return f'<div class="verdict {word}">{body}</div>'


def _no_verdict() -> str:
    return '<p class="missing">The verdict is missing from this run.</p>'


def _problems(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    more = len(lines) - MOST_LINES
    shown = [*lines[:MOST_LINES], *([f"And {more} more."] if more > 0 else [])]
    return f'<div class="problems" id="problems"><h2>What is missing</h2><ul>{_items(shown)}</ul></div>'


def _table(heads: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[: 5 * MOST_LINES]
    )
    return (
        '<div class="wide" role="region" aria-label="The run in numbers" tabindex="0"><table>'
        f"<caption>Medians over the samples.</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts)


def _link(section: Section, has: set[str]) -> str:
    absent = "" if has & set(section.figures) else ' class="absent"'
    return f'<li{absent}><a href="#{section.name}">{section.title}</a></li>'


def _section(section: Section, has: set[str], notes: Mapping[str, Sequence[str]]) -> str:
    head = f'<h2 id="{section.name}-title">{section.title}</h2>'
    opening = (
        f'<section id="{section.name}" aria-labelledby="{section.name}-title" '
        f'data-figure="{section.name}">{head}'
    )
    if not has & set(section.figures):
        return f'{opening}<p class="missing">{section.missing}</p></section>'.replace(
            f' data-figure="{section.name}"', ""
        )
    said = [note for figure in section.figures for note in notes.get(figure, ())]
    told = (
        f'<p class="note">{_text(" ".join(said))} The rest is in the run\'s files.</p>'
        if said
        else ""
    )
    return (
        f'{opening}<p class="caption">{section.caption}</p>'
        f'<div class="figure"></div>{told}</section>'
    )


def _command(command: str | None) -> str:
    if command is None:
        return '<p class="missing">The run does not say by which command it was made.</p>'
    return f'<pre class="command" tabindex="0"><code>{_text(command)}</code></pre>'


def _environment(environment: Mapping[str, Any]) -> str:
    if not environment:
        return (
            '<p class="missing">The environment is missing from this run: no environment.json.</p>'
        )
    packages = environment.get("packages")
    rows = [(key, value) for key, value in environment.items() if key != "packages"]
    rows += list(packages.items()) if isinstance(packages, Mapping) else []
    told = [
        (str(key), ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in rows[: 2 * MOST_LINES]
    ]
    return f"<dl>{_facts(told)}</dl>"
