"""Words of Chinese pages for the search, where Sphinx takes what stands between two marks for one word.

Every two characters that follow each other become a word, so that a term of two is found. Longer terms are
found in what stands between two marks, which Sphinx's search looks into itself.
"""

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

CHINESE = re.compile(r"[\u4e00-\u9fff]{2,}")


class SearchBoth(SearchEnglish):
    """English, and Chinese by pairs of characters."""

    def split(self, input: str) -> list[str]:
        """The words of a text."""
        runs = CHINESE.findall(input)
        pairs = {run[at : at + 2] for run in runs for at in range(len(run) - 1)}
        return [*super().split(input), *sorted(pairs)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_search_language(SearchBoth)
    return {"parallel_read_safe": True}
