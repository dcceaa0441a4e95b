"""The tables in the pages: each stands between two marks, and is made from what is stored."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from experiments.evidence.anchors import ANCHORS, anchor_table
from experiments.evidence.claim import HEADER, Claim, line_of, markdown
from experiments.evidence.claims import CLAIMS
from experiments.evidence.stored import EXPERIMENTS, read_run
from experiments.which_lags.page import tables as lag_tables
from experiments.which_lags.rows import read_rows
from experiments.which_lags.run import REPORTED
from gradient_flow.results_folder import OutputError

END = "<!-- end -->"
RESULTS_PAGE = EXPERIMENTS.parent / "docs" / "results.md"
CLAIMED = ""
"""The name of the table of claims, which stands in its marks without one."""


def begin(name: str = CLAIMED) -> str:
    """The mark before a table."""
    words = f"evidence, {name}" if name else "evidence"
    return f"<!-- {words}: made by python -m experiments.evidence --write -->"


def experiments() -> list[str]:
    """The experiments that claim something, in their order."""
    return list(dict.fromkeys(claim.experiment for claim in CLAIMS))


def evidence_table(claims: Iterable[Claim]) -> str:
    """A line for each claim."""
    return markdown(HEADER, [line_of(claim) for claim in claims])


def tables() -> dict[Path, dict[str, str]]:
    """What belongs between the marks of each page, by their names."""
    found = {
        EXPERIMENTS / name / "README.md": {
            CLAIMED: evidence_table(claim for claim in CLAIMS if claim.experiment == name)
        }
        for name in experiments()
    }
    lags = read_run("which_lags", "reported")["results"]
    found[EXPERIMENTS / "which_lags" / "README.md"] |= lag_tables(lags, read_rows(REPORTED))
    return found | {RESULTS_PAGE: {CLAIMED: anchor_table(ANCHORS)}}


def with_tables(text: str, tables: Mapping[str, str], page: Path) -> str:
    """The page's text with each table between its marks.

    Raises:
        OutputError: a page without marks.
    """
    for name, table in tables.items():
        before, mark, rest = text.partition(begin(name))
        _, end, after = rest.partition(END)
        if not mark or not end:
            raise OutputError(f"No marks: expected {begin(name)} and {END} in {page}, got none.")
        text = f"{before}{mark}\n\n{table}\n\n{END}{after}"
    return text


def written() -> dict[Path, tuple[str, str]]:
    """Each page as it is, and with its tables made anew."""
    found = {}
    for page, own in tables().items():
        text = page.read_text(encoding="utf-8")
        found[page] = text, with_tables(text, own, page)
    return found


def stale_pages() -> list[Path]:
    """Pages with a table that is not what is stored."""
    return [page for page, (old, new) in written().items() if old != new]


def write_pages() -> list[Path]:
    """Put every table anew into its page; the pages that changed."""
    changed = {page: new for page, (old, new) in written().items() if old != new}
    for page, text in changed.items():
        page.write_text(text, encoding="utf-8")
    return list(changed)
