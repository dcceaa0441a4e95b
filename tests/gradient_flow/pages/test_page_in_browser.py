"""A run's page in a real browser."""

import csv
import re

import inspected
import numpy as np
import pytest

import gradient_flow
from gradient_flow.pages.page_sections import SECTIONS

pytestmark = pytest.mark.browser
LN10 = np.log(10)
DRAWN = "() => document.querySelectorAll('.js-plotly-plot').length"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An inspection, a watched training run and a comparison: their folders, and a page in each."""
    pytest.importorskip("plotly")
    root = tmp_path_factory.mktemp("runs")
    results, arrays = inspected.inspection()
    inspected.write_run(root / "inspection", results, arrays)
    inspected.watched(root / "watched")
    inspected.write_run(root / "comparison", *inspected.comparison())
    for folder in root.iterdir():
        gradient_flow.report(folder, folder / "report.html")
    return root, arrays


@pytest.fixture
def opened(chromium, runs):
    """``opened(name, **options)`` opens a run's page; at the end nothing went wrong in it."""
    contexts, wrong = [], []

    def opens(name, draw=True, **options):
        options = {"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce"} | options
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda asked: wrong.append(asked.url) if "://" in asked.url else None)
        page.goto((runs[0] / name / "report.html").as_uri())
        del wrong[:1]  # The page itself.
        page.wait_for_function("performance.getEntriesByName('first-picture').length > 0")
        if draw:
            for section in page.query_selector_all("section[data-figure]"):
                section.scroll_into_view_if_needed()
                page.wait_for_function(
                    "name => document.querySelector(`#${name} .figure`).childElementCount > 0",
                    arg=section.get_attribute("id"),
                )
        return page

    yield opens
    for context in contexts:
        context.close()
    # A file that is downloaded is a request to the page's own memory.
    assert [one for one in wrong if not one.startswith(("blob:", "data:"))] == []


def traces(page, selector):
    return page.eval_on_selector(f"{selector} .js-plotly-plot", "node => node.data.length")


def told(page, section):
    return page.text_content(f"#{section} .readout")


def test_the_first_picture_comes_alone(opened):
    page = opened("inspection", draw=False)
    mark = "performance.getEntriesByName('first-picture')[0].startTime"
    print(f"first picture after {page.evaluate(mark):.0f} ms")
    assert page.evaluate("document.querySelector('#norms .js-plotly-plot .trace') !== null")
    # What is far below is drawn when it comes near.
    assert page.evaluate("document.querySelector('#autodiff .js-plotly-plot') === null")
    page.locator("#autodiff").scroll_into_view_if_needed()
    page.wait_for_selector("#autodiff .js-plotly-plot .trace")


@pytest.mark.parametrize("name", ["inspection", "watched", "comparison"])
def test_every_figure_is_drawn(opened, name):
    page = opened(name)
    assert page.query_selector_all(".figure .missing") == []
    sections = page.query_selector_all("section[data-figure]")
    names = {section.get_attribute("id") for section in sections}
    # A comparison has arrays for five figures beside the cell's, a watched run those over training.
    expected = {
        "inspection": {section.name for section in SECTIONS},
        "watched": {"training"},
        "comparison": {"norms", "map", "gates", "training", "autodiff"},
    }
    assert names == expected[name]
    for section in sections:
        assert section.query_selector(".js-plotly-plot .trace, .js-plotly-plot .hm, svg .flow")


def test_texts_of_a_users_files_are_shown_as_they_are(opened):
    page = opened("inspection")
    assert f"{inspected.HOSTILE}, layer 0" in page.text_content("#norms fieldset")
    assert page.eval_on_selector_all("script", "all => all.length") == 3
    first = page.eval_on_selector("#norms .js-plotly-plot", "node => node.data.at(-1).meta")
    assert "&lt;script" in first or "layer 1" in first


def test_switches_and_the_scale_of_the_lag(opened):
    page = opened("inspection", draw=False)
    before = traces(page, "#norms")
    page.get_by_label("layer 1, backward").uncheck()
    assert traces(page, "#norms") == before / 2
    page.get_by_label("cc: ∂C by ∂C").check()
    assert traces(page, "#norms") == before
    page.locator("#norms").get_by_label("logarithmic").check()
    kind = "node => node._fullLayout.xaxis.type"
    assert page.eval_on_selector("#norms .js-plotly-plot", kind) == "log"
    page.get_by_label("cc: ∂C by ∂C").uncheck()
    page.get_by_label("hh: ∂h by ∂h").uncheck()
    assert "Nothing is switched on." in page.text_content("#norms .js-plotly-plot")


def test_the_map_has_its_value_under_the_pointer_and_by_keys(opened, runs):
    page = opened("inspection")
    logs = runs[1]["before/layer_0/map.hh"] / LN10
    sliders = page.locator("#map input[type=range]")
    sliders.nth(0).focus()
    page.keyboard.press("End")
    sliders.nth(1).focus()
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert told(page, "map") == f"t = 20, k = 3, lag 17: 10^{logs[19, 3]:.1f}"
    row = "all => all[1].data[0].y"
    shown = page.eval_on_selector_all("#map .js-plotly-plot", row)
    np.testing.assert_allclose(shown, logs[19], atol=0.0051)

    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map .js-plotly-plot .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + 0.30 * box["width"], box["y"] + 0.2 * box["height"], steps=4)
    page.wait_for_function("document.querySelector('#map .readout').textContent.includes('lag 1')")
    t, k = map(int, re.match(r"t = (\d+), k = (\d+)", told(page, "map")).groups())
    assert told(page, "map").endswith(f": 10^{logs[t - 1, k]:.1f}") and (t, k) != (20, 3)
    page.wait_for_selector("#map .hoverlayer .hovertext")


def test_the_spectrum_by_lag(opened, runs):
    page = opened("inspection")
    values = runs[1]["before/layer_0/spectrum"] / LN10
    slider = page.locator("#spectrum input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    count = int((values[16] >= -3).sum())
    start = f"At lag 16, {count} of 8 directions keep a thousandth or more"
    assert told(page, "spectrum").startswith(start)
    shown = page.eval_on_selector("#spectrum .js-plotly-plot", "node => node.data[0].y")
    np.testing.assert_allclose(shown, values[16], atol=0.0051)


def test_numbers_that_are_not_finite_leave_no_blank(opened, runs):
    results, arrays = inspected.inspection(stages=("after",))
    bad = {
        name: array
        if name.endswith(("times", "starts", "lags", "steps", "units"))
        else array + np.nan
        for name, array in arrays.items()
    }
    folder = inspected.write_run(runs[0] / "nan", results, bad)
    gradient_flow.report(folder, folder / "report.html")
    page = opened("nan")
    for section in ("norms", "map", "detours", "gate-paths", "spectrum", "credit", "autodiff"):
        assert "No finite number to draw" in page.text_content(f"#{section} .js-plotly-plot")
    assert told(page, "map").endswith(": no number")
    assert told(page, "autodiff") == "Plain autodiff returns no finite number."


def numbers_on_arrows(page):
    return [float(text) for text in page.locator("#cell svg .value").all_text_contents()]


def test_the_cell_has_the_numbers_of_the_run(opened, runs):
    page = opened("inspection")
    one = {
        name.split("cell.")[1]: values[9, 2]
        for name, values in runs[1].items()
        if name.startswith("before/layer_0/cell.") and values.ndim == 2
    }
    page.locator("#cell").get_by_label("Unit").select_option("2")
    slider = page.locator("#cell input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    i, f, g, o = (one[gate] for gate in "ifgo")
    flow = [one["c_before"], f, f * one["c_before"], i, g, i * g, one["c"], one["c"], one["tanh_c"]]
    flow += [o, one["h"], *(one[f"z_{gate}"] for gate in "figo")]
    np.testing.assert_allclose(numbers_on_arrows(page), flow, rtol=6e-3)
    page.locator("#cell").get_by_label("backward", exact=True).check()
    bend = o * (1 - one["tanh_c"] ** 2)
    from_h, d_c, d_h = one["d_h"] * bend, one["d_c"], one["d_h"]
    # The next step's memory and this step's output make up all of δC.
    back = [d_c * f, d_c * one["c_before"], d_c, d_c * g, d_c * i, d_c, d_c - from_h, from_h]
    back += [d_h * o, d_h * one["tanh_c"], d_h, *(one[f"d_z_{gate}"] for gate in "figo")]
    np.testing.assert_allclose(numbers_on_arrows(page), back, rtol=6e-3)
    page.locator("#cell").get_by_label("Path").select_option("through the forget gate")
    said = told(page, "cell")
    assert "δz_f = δCₜ · Cₜ₋₁ · f (1 − f) = " in said
    last = float(re.search(r"f \(1 − f\) = ([-\d.e]+\d)", said)[1])
    assert last == pytest.approx(d_c * one["c_before"] * f * (1 - f), rel=6e-3)
    assert page.locator("#cell svg .off").count() > 5


def test_the_gates_unit_by_unit(opened, runs):
    page = opened("inspection")
    constants = runs[1]["before/layer_0/time_constant"]
    slider = page.locator("#gates input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    last = int(np.argmin(constants))
    assert f"{last} (4 of 4)" in slider.get_attribute("aria-valuetext")
    lines = "all => all.map(node => node.data).find(data => data.length === 4).map(one => one.y)"
    shown = page.eval_on_selector_all("#gates .js-plotly-plot", lines)
    gates = [runs[1][f"before/layer_0/gate.{gate}"][:, last] for gate in "ifgo"]
    np.testing.assert_allclose(shown, gates, atol=0.0051)


def test_the_credit_character_by_character(opened, runs):
    page = opened("inspection")
    logs = runs[1]["before/layer_0/credit"] / LN10
    strip = page.locator("#credit .characters")
    strip.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert told(page, "credit") == f"Step 2, “/”: 10^{logs[1].round(2):.1f}"
    assert strip.locator("span").all_text_contents()[:9] == list("</script>")


def test_a_watched_run_has_a_slider_over_its_steps(opened):
    page = opened("watched")
    slider = page.locator("#training input[type=range]")
    assert told(page, "training").startswith("Training step 300, layer 0, hh: ")
    slider.focus()
    page.keyboard.press("Home")
    assert told(page, "training").startswith("Training step 0, layer 0, hh: a thousandth after ")


def test_the_numbers_of_a_figure_as_a_file(opened, runs, tmp_path):
    page = opened("inspection")
    with page.expect_download() as started:
        page.locator("#norms .download").click()
    started.value.save_as(tmp_path / started.value.suggested_filename)
    with (tmp_path / "norm_against_lag.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["network"] == f"{inspected.HOSTILE}, layer 0"
    found = [float(one["log10_median"]) for one in rows[:17]]
    curve = np.median(runs[1]["before/layer_0/curve.hh"], axis=0) / LN10
    np.testing.assert_allclose(found, curve, atol=6e-4)
    assert len(rows) == 2 * 2 * 5 * 17
    # Every figure has such a file. Chromium drops the eleventh within a second.
    page.wait_for_timeout(1100)
    for section in SECTIONS:
        with page.expect_download() as started:
            page.locator(f"#{section.name} .download").first.click()
        started.value.save_as(tmp_path / "numbers.csv")
        assert len((tmp_path / "numbers.csv").read_text(encoding="utf-8").splitlines()) > 2


@pytest.mark.parametrize("name", ["inspection", "watched", "comparison"])
def test_a_phone_shows_it_without_scrolling_sideways(opened, name):
    page = opened(name, viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    inside = "all => all.every(node => node.getBoundingClientRect().right <= 376)"
    assert page.eval_on_selector_all(".js-plotly-plot, button, select, input", inside)
    assert page.query_selector_all(".modebar-btn") == []


def ground(page):
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return [int(part) for part in re.findall(r"\d+", colour)]


def test_light_and_dark(opened):
    page = opened("inspection", color_scheme="dark")
    ink = "node => node._fullLayout.font.color"
    assert max(ground(page)) < 60
    assert page.eval_on_selector("#norms .js-plotly-plot", ink) == "#eceef0"
    page.get_by_role("button", name="Switch to light colours").click()
    assert min(ground(page)) > 200
    assert page.eval_on_selector("#norms .js-plotly-plot", ink) == "#16191d"
    page.get_by_role("button", name="Switch to dark colours").click()
    page.emulate_media(color_scheme="light")
    assert max(ground(page)) < 60  # What was chosen stays.


def test_everything_by_keyboard(opened):
    page = opened("inspection")
    page.evaluate("scrollTo(0, 0)")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the figures"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "checkbox"
    before = traces(page, "#norms")
    page.keyboard.press("Space")
    assert traces(page, "#norms") < before
    # Every control can be reached, and each has a name.
    names = page.eval_on_selector_all(
        "button, select, input",
        "all => all.map(node => node.tabIndex < 0 ? 'not reached' : node.ariaLabel || "
        "node.textContent || node.labels?.[0]?.textContent)",
    )
    assert len(names) > 40 and all(name and name != "not reached" for name in names)


def test_on_paper_every_figure_is_there(opened):
    page = opened("inspection", draw=False, color_scheme="dark")
    content = page.pdf()
    assert content.startswith(b"%PDF")
    for section in SECTIONS:
        assert page.query_selector(f"#{section.name} .figure :is(.js-plotly-plot, svg)")
    page.emulate_media(media="print")
    assert not page.locator("#theme").is_visible() and not page.locator("nav").is_visible()
    assert not page.locator("#norms .controls").is_visible()
