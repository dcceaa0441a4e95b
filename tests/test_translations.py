"""A translated page is the page that it translates: the same sections, code, formulas, numbers and links."""

import re
from pathlib import PurePosixPath

import pytest
from page_blocks import CHECKOUT, blocks_of, text_of, translations

if not (CHECKOUT / "docs").is_dir():
    pytest.skip("needs a checkout", allow_module_level=True)

PAIRS = translations()
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
FORMULA = re.compile(r"\$[^$\n]+\$")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)]*)\)")
NUMBER = re.compile(r"\d+(?:\.\d+)*")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def sections(page):
    """``(level, text)`` of every section of a page, the line that links to the other language left out."""
    text = FENCE.sub(lambda found: found[0].replace("\n#", "\n\0"), text_of(page))
    text = re.sub(r"\A(# .*\n)\n\[.*\]\(.*\)\n", r"\1", text)
    for part in re.split(r"^(?=#+ )", text, flags=re.MULTILINE)[1:]:
        yield len(part) - len(part.lstrip("#")), part


def contents(page, text):
    """What does not depend on the language: fences as they stand, and the rest of each kind in any order."""
    fences = FENCE.findall(text)
    text = FENCE.sub("", text)
    found = {"fences": fences}
    here = PurePosixPath(page).parent
    for name, pattern in (("code", CODE), ("formulas", FORMULA)):
        found[name] = sorted(pattern.findall(text))
        text = pattern.sub("", text)
    links = [link if ":" in link else str(here / link) for link in LINK.findall(text)]
    # A link leads to the page of its own language, where there is one.
    originals = dict(translations())
    found["links"] = sorted(
        (CHECKOUT / originals.get(str(PurePosixPath(normal(link))), normal(link))).as_posix()
        for link in links
    )
    text = LINK.sub("", text)
    found["numbers"] = sorted(NUMBER.findall(text))
    found["rows"] = sum(line.startswith("|") for line in text.splitlines())
    found["items"] = len(re.findall(r"^(?:- |\d\. )", text, re.MULTILINE))
    found["bold"] = text.count("**")
    return found


def normal(link):
    """A path without its ``..``."""
    parts = []
    for part in PurePosixPath(link).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)


def test_there_are_translations():
    assert len(PAIRS) >= 2
    for page, origin in PAIRS:
        assert (CHECKOUT / origin).is_file(), page


@pytest.mark.parametrize(("page", "origin"), PAIRS)
def test_blocks_are_those_of_the_original(page, origin):
    assert [code for _, code, _ in blocks_of(page)] == [code for _, code, _ in blocks_of(origin)]


@pytest.mark.parametrize(("page", "origin"), PAIRS)
def test_each_page_links_to_the_other_below_its_title(page, origin):
    name = PurePosixPath(page).name
    assert text_of(origin).splitlines()[2] == f"[中文版](zh/{name})"
    assert text_of(page).splitlines()[2] == f"[English](../{name})"


@pytest.mark.parametrize(("page", "origin"), PAIRS)
def test_sections_have_the_same_contents(page, origin):
    translated, original = list(sections(page)), list(sections(origin))
    assert [level for level, _ in translated] == [level for level, _ in original]
    for (_, mine), (_, theirs) in zip(translated, original, strict=True):
        title = theirs.splitlines()[0]
        mine, theirs = contents(page, mine), contents(origin, theirs)
        for kind in mine:
            assert mine[kind] == theirs[kind], f"{kind} of {title}"


@pytest.mark.parametrize(("page", "origin"), PAIRS)
def test_every_row_of_a_table_has_its_own_code_and_formulas(page, origin):
    def rows(name):
        lines = [line for line in text_of(name).splitlines() if line.startswith("|")]
        return [(sorted(CODE.findall(row)), sorted(FORMULA.findall(row))) for row in lines]

    assert rows(page) == rows(origin)


@pytest.mark.parametrize(("page", "origin"), PAIRS)
def test_every_paragraph_is_translated(page, origin):
    prose = LINK.sub("", FORMULA.sub("", CODE.sub("", FENCE.sub("", text_of(page)))))
    for paragraph in prose.split("\n\n"):
        words = re.findall(r"[A-Za-z]{3,}", paragraph)
        if len(words) > 3 and not paragraph.lstrip().startswith("|"):
            assert CHINESE.search(paragraph), paragraph


def test_a_change_of_one_language_alone_is_noticed():
    one = "A line of $x$, 2 and `code`, and [more](more.md).\n\n```text\nkept\n```\n"
    for old, new in (
        ("$x$", "$y$"),
        ("2", "3"),
        ("code", "word"),
        ("more.md", "less.md"),
        ("kept", "lost"),
    ):
        assert contents("docs/a.md", one) != contents("docs/a.md", one.replace(old, new)), old
