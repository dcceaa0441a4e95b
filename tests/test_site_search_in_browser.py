"""The site's search by keyboard: `docs/static/search_keys.js` on a page of the parts that it goes by."""

import pytest
from page_blocks import CHECKOUT

SCRIPT = CHECKOUT / "docs" / "static" / "search_keys.js"
if not SCRIPT.is_file():
    pytest.skip("needs a checkout", allow_module_level=True)

pytestmark = pytest.mark.browser

# As furo and Sphinx write them: a drawer that is moved out of a narrow window, and a list of results.
PAGE = """<!doctype html><title>Search</title>
<style>
aside {{ position: fixed; left: {left}px; width: 200px }}
#__navigation:checked ~ aside {{ left: 0 }}
</style>
<input type="checkbox" id="__navigation">
<aside><a href="#side">Side bar</a><input name="q" placeholder="Search"></aside>
<main><textarea id="other"></textarea><div id="search-results">{results}</div></main>
<script>{script}</script>"""
RESULTS = "<ul>" + "".join(f'<li><a href="#{n}">Result {n}</a></li>' for n in range(3)) + "</ul>"
FOCUSED = "(e => e.id || e.name || e.textContent)(document.activeElement)"


@pytest.fixture
def opened(chromium, tmp_path):
    """``opened(results, query, left)``: the page of a search, and what has the focus after a key."""
    pages, wrong = [], []

    def opens(results=RESULTS, query="", left=0):
        text = PAGE.format(results=results, left=left, script=SCRIPT.read_text("utf-8"))
        (tmp_path / "search.html").write_text(text, encoding="utf-8")
        page = chromium.new_page()
        pages.append(page)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((tmp_path / "search.html").as_uri() + query)

        def after(key):
            page.keyboard.press(key)
            return page.evaluate(FOCUSED)

        return page, after

    yield opens
    for page in pages:
        page.close()
    assert wrong == []


def test_slash_goes_to_the_field_and_is_not_typed(opened):
    page, after = opened()
    assert after("/") == "q"
    page.keyboard.type("a/b")
    assert page.input_value("[name=q]") == "a/b"
    assert not page.is_checked("#__navigation")


def test_slash_opens_the_drawer_of_a_narrow_window(opened):
    page, after = opened(left=-200)
    assert after("/") == "q"
    assert page.is_checked("#__navigation")


def test_slash_is_a_letter_where_one_types(opened):
    page, after = opened()
    page.focus("#other")
    assert after("/") == "other"
    assert page.input_value("#other") == "/"


def test_results_are_reached_by_tab_and_arrows(opened):
    _, after = opened(query="?q=forget")
    assert [after(key) for key in ("Tab", "ArrowDown", "ArrowDown", "ArrowDown")] == [
        "Result 0",
        "Result 1",
        "Result 2",
        "Result 2",
    ]
    assert [after(key) for key in ("ArrowUp", "ArrowUp", "ArrowUp")] == [
        "Result 1",
        "Result 0",
        "q",
    ]
    assert [after(key) for key in ("ArrowDown", "Escape")] == ["Result 0", "q"]


def test_enter_opens_a_result(opened):
    page, after = opened(query="?q=forget")
    after("ArrowDown")
    after("ArrowDown")
    after("Enter")
    assert page.url.endswith("#1")


def test_keys_keep_their_meaning_without_results(opened):
    page, after = opened(results="")
    page.focus("#other")
    assert [after(key) for key in ("ArrowDown", "Escape", "ArrowUp")] == ["other"] * 3
