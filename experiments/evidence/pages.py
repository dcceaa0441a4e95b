"""The tables in the pages: each stands between two marks, and is made from what is stored."""

from collections.abc import Iterable
from pathlib import Path

from experiments.evidence.anchors import ANCHORS, anchor_table
from experiments.evidence.claim import HEADER, Claim, line_of, markdown
from experiments.evidence.claims import CLAIMS
from experiments.evidence.stored import EXPERIMENTS
from gradient_flow.results_folder import OutputError

BEGIN, END = "<!-- evidence: made by python -m experiments.evidence --write -->", "<!-- end -->"
RESULTS_PAGE = EXPERIMENTS.parent / "docs" / "results.md"


def experiments() -> list[str]:
    """The experiments that claim something, in their order."""
    return list(dict.fromkeys(claim.experiment for claim in CLAIMS))


def evidence_table(claims: Iterable[Claim]) -> str:
    """A line for each claim."""
    return markdown(HEADER, [line_of(claim) for claim in claims])


def tables() -> dict[Path, str]:
    """What belongs between the marks of each page."""
    found = {
        EXPERIMENTS / name / "README.md": evidence_table(
            claim for claim in CLAIMS if claim.experiment == name
        )
        for name in experiments()
    }
    return found | {RESULTS_PAGE: anchor_table(ANCHORS)}


def with_table(text: str, table: str, page: Path) -> str:
    """The page's text with the table between its marks.

    Raises:
        OutputError: a page without marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise OutputError(f"No marks: expected {BEGIN} and {END} in {page}, got none.")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def stale_pages() -> list[Path]:
    """Pages whose table is not what is stored."""
    pages = {page: page.read_text(encoding="utf-8") for page in tables()}
    return [
        page
        for page, table in tables().items()
        if with_table(pages[page], table, page) != pages[page]
    ]


def write_pages() -> list[Path]:
    """Put every table anew into its page; the pages that changed."""
    changed = stale_pages()
    for page in changed:
        text = with_table(page.read_text(encoding="utf-8"), tables()[page], page)
        page.write_text(text, encoding="utf-8")
    return changed
