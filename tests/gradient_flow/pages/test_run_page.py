"""What stands on a run's page, without a browser."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import inspected
import numpy as np
import pytest

import gradient_flow
from gradient_flow.pages.page_sections import SECTIONS
from gradient_flow.pages.run_numbers import from_results, read_numbers
from gradient_flow.pages.run_page import MOST_BYTES, page_of
from gradient_flow.results_folder import OutputError, write_arrays

HOSTILE = inspected.HOSTILE
PLOTLY = "/* a stand-in </script> <!-- */"


class Page(HTMLParser):
    """The elements and the words of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.inside = [], {"": ""}, []
        self.feed(text)
        self.text = text

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br"):
            self.inside.append(dict(attrs).get("id") or (self.inside[-1] if self.inside else ""))

    def handle_endtag(self, tag):
        self.inside.pop()

    def handle_data(self, data):
        place = self.inside[-1] if self.inside else ""
        self.words[place] = self.words.get(place, "") + data

    @property
    def numbers(self):
        return json.loads(self.words["numbers"])

    def scripts(self):
        return re.findall(r"<script>(.*?)</script>", self.text, re.DOTALL)


def page(results, arrays):
    return Page(page_of(from_results(results, arrays, "memory"), PLOTLY))


@pytest.fixture(scope="module")
def inspection():
    return inspected.inspection()


@pytest.fixture(scope="module")
def whole(inspection):
    return page(*inspection)


def test_the_stand_in_run_is_an_lstm():
    """Its credit is that of central differences: so are the cotangents of its steps."""
    xs = np.random.default_rng(0).normal(size=(12, 2))
    arrays = inspected.inspected_arrays(xs[:, None], 3, 1.0, 0, 8)

    def loss(xs):
        return inspected.run_lstm(xs, 3, 1.0, 0).steps["h"][-1].sum()

    slopes = np.zeros_like(xs)
    for place in np.ndindex(*xs.shape):
        step = np.zeros_like(xs)
        step[place] = 1e-5
        slopes[place] = (loss(xs + step) - loss(xs - step)) / 2e-5
    expected = np.log(np.linalg.norm(slopes, axis=-1))
    np.testing.assert_allclose(arrays["credit"], expected, rtol=1e-6)
    # And its detours are all of the transition.
    np.testing.assert_allclose(
        arrays["gate_paths.i+f+g+o"], arrays["curve.hh"][0], rtol=1e-12, atol=1e-12
    )


def test_every_section_has_its_numbers(whole):
    drawn = {attrs["data-figure"] for tag, attrs in whole.elements if "data-figure" in attrs}
    assert drawn == {section.name for section in SECTIONS}
    numbers = whole.numbers
    assert {part["block"] for part in numbers["curves"]} == {"hh", "hc", "ch", "cc", "carousel"}
    for figure in (
        "autodiff",
        "maps",
        "detours",
        "gate_paths",
        "gates",
        "spectra",
        "credit",
        "cells",
    ):
        stages = {(part["stage"], part["network"]) for part in numbers[figure]}
        assert len(stages) == 4, figure


def test_norms_are_those_of_the_files_as_powers_of_ten(inspection, whole):
    _, arrays = inspection
    part = next(one for one in whole.numbers["curves"] if one["block"] == "hh")
    curve = arrays["before/layer_0/curve.hh"] / np.log(10)
    assert part["middle"] == np.median(curve, axis=0).round(3).tolist()
    assert part["low"] == np.quantile(curve, 0.1, axis=0).round(3).tolist()
    shown = whole.numbers["maps"][0]
    assert shown["log10"]["values"][-1][0] == round(
        100 * arrays["before/layer_0/map.hh"][-1, 0] / np.log(10)
    )
    # Nothing depends on a later step, and a group without paths is exactly 0.
    assert shown["log10"]["values"][0][5] == "nan"
    detours = whole.numbers["detours"][0]
    assert detours["terms"][0][5] == "-inf"
    assert detours["whole"]["log10"] == curve[0].round(3).tolist()
    log10 = arrays["before/layer_0/curve.hh"][:, -1].mean() / np.log(10)
    assert f"10^{log10:.1f}" in whole.text


def test_units_stand_in_the_order_of_their_time_constants(inspection, whole):
    _, arrays = inspection
    part = whole.numbers["gates"][0]
    constants = arrays["before/layer_0/time_constant"]
    assert part["units"] == np.argsort(-constants).tolist()
    assert part["constants"] == sorted(part["constants"], reverse=True)
    first = arrays["before/layer_0/gate.f"][:, part["units"][0]]
    assert part["gates"]["f"]["values"][0] == (100 * first).round().tolist()


def test_nothing_comes_from_later_steps_at_the_end(inspection, whole):
    _, arrays = inspection
    part = whole.numbers["cells"][0]
    later = np.array(part["values"]["d_c_later"])
    assert (later[-1] == 0).all()
    one = {name: arrays[f"before/layer_0/cell.{name}"] for name in ("d_c", "f")}
    np.testing.assert_allclose(later[:-1], (one["d_c"] * one["f"])[1:], rtol=1e-3)


def test_the_words_of_the_run_are_there(whole):
    words = whole.words["verdict"]
    for said in (
        "Vanishing, for a lag of 16 steps.",
        "A forget bias of 3 helped.",
        "Tried without help",
    ):
        assert said in words
    assert "gradient-flow inspect '<script>alert(1)</script>'" in whole.words["environment"]
    everything = " ".join(whole.words.values())
    for said in (
        "Noise of unit size stood for data.",
        "The gates stand in the order",
        "-0.4 ± 0.02",
    ):
        assert said in everything
    assert "beyond the lag" in everything


def test_texts_of_a_users_files_are_texts(whole):
    assert HOSTILE not in whole.text
    assert HOSTILE in whole.words["verdict"] and HOSTILE in " ".join(whole.words.values())
    assert whole.numbers["networks"]["layer_0"].startswith(HOSTILE)
    assert whole.numbers["text"].startswith("</script><script>")
    assert [tag for tag, _ in whole.elements].count("script") == 3
    assert not [name for _, attrs in whole.elements for name in attrs if name.startswith("on")]


def test_a_page_asks_nothing_of_a_network_and_runs_its_own_scripts_alone(whole):
    policy = next(a["content"] for t, a in whole.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    scripts = whole.scripts()
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert not [a for _, a in whole.elements if "src" in a]
    assert all(a["href"].startswith("#") for _, a in whole.elements if "href" in a)
    assert "eval(" not in scripts[1] and "innerHTML" not in scripts[1]
    assert scripts[0] == r"/* a stand-in <\/script> <\!-- */"


@pytest.mark.parametrize(
    ("gone", "figure"),
    [
        ("curve.", "norms"),
        ("map.", "map"),
        ("detours.", "detours"),
        ("gate_paths.", "gate-paths"),
        ("gate.", "gates"),
        ("spectrum", "spectrum"),
        ("credit", "credit"),
        ("cell.", "cell"),
        ("autodiff", "autodiff"),
    ],
)
def test_a_section_without_its_arrays_says_so(inspection, gone, figure):
    results, arrays = inspection
    kept = {name: one for name, one in arrays.items() if not name.split("/")[2].startswith(gone)}
    found = page(results, kept)
    section = next(one for one in SECTIONS if one.name == figure)
    assert section.missing in found.words[figure]
    drawn = {attrs["data-figure"] for tag, attrs in found.elements if "data-figure" in attrs}
    assert figure not in drawn and len(drawn) == len(SECTIONS) - (2 if gone == "curve." else 1)


DAMAGE = {
    "a flat curve": ({"curve.hh": np.zeros(3)}, "curve.hh […, 17], got [3]"),
    "a square gate": ({"gate.o": np.zeros((2, 2))}, "gate.o [20, 4], got [2, 2]"),
    "texts": ({"credit": np.array(["much"])}, "credit: expected numbers, got str"),
    "an empty map": ({"map.hh": np.zeros((0, 0))}, "map.hh [20, 20], got [0, 0]"),
    "no units": ({"cell.units": np.zeros((1, 1))}, "cell.units […], got [1, 1]"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_arrays_that_do_not_fit_are_named(inspection, what):
    results, arrays = inspection
    changes, said = DAMAGE[what]
    changed = {f"before/layer_0/{name}": one for name, one in changes.items()}
    found = page(results, arrays | changed)
    assert said in found.words["problems"]
    # The other network's figures are drawn all the same.
    assert len({attrs.get("data-figure") for _, attrs in found.elements} - {None}) == len(SECTIONS)


STRANGE = [
    {"verdicts": []},
    {"verdicts": {"before": {"findings": "none", "headline": 3}}},
    {"lags": "many"},
    {"lags": [[0], [1]]},
    {"networks": ["layer_0"]},
    {"stages": None},
    {"table": {"before": [1, 2]}},
    {"inputs": None},
    {"layers": {"name": 3}},
    {"sources": {"before": 1}, "left_out": {"layer 0": ["the map"], "layer 1": 3}},
    {"layers": [{"directions": "two"}, 3]},
    {"command": 7, "source": None},
    {"seconds": [1]},
    {"inputs": {"text": "\ud800 \u2028"}},
]


@pytest.mark.parametrize("change", STRANGE, ids=[next(iter(one)) for one in STRANGE])
def test_strange_results_make_a_page_all_the_same(inspection, change):
    results, arrays = inspection
    found = page(results | change, arrays)
    assert found.numbers["maps"] and "How this was made" in found.text
    found.text.encode("utf-8", errors="replace")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_becomes_no_broken_number(inspection, value):
    results, arrays = inspection
    bad = {name: np.full_like(array, value, np.float64) for name, array in arrays.items()}
    assert page(results, bad).numbers["curves"][0]["middle"][3] == str(value)


def test_a_comparison_has_its_page(tmp_path):
    results, arrays = inspected.comparison()
    found = page(results, arrays)
    assert "2 of 2 networks: " in found.words["verdict"].replace("\n", "")
    assert "LSTM, forget bias 1" in found.words["verdict"]
    command = (
        "gradient-flow compare --lengths 12 --input noise --hidden-size 3 --seed 0 --train-steps 2"
    )
    assert command in found.words["environment"]
    part = found.numbers["gates"][0]
    forget = arrays["untrained/rnn/gate.f"].mean(axis=0)
    np.testing.assert_allclose(part["constants"], np.sort(1 / (1 - forget))[::-1], rtol=1e-3)


def test_a_watched_run_has_its_page(tmp_path):
    inspected.watched(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 100, "loss": 2.5}\n{"step": 200, "loss": 1.5}\n')
    for folder in (tmp_path, tmp_path / "flow"):
        found = Page(page_of(read_numbers(folder), PLOTLY))
        watch = found.numbers["watch"]
        assert (
            watch["steps"] == [0, 100, 200, 300] and len(watch["curves"][0]["log10"]["values"]) == 4
        )
        assert watch["losses"] == [[100.0, 2.5], [200.0, 1.5]]
        assert "A training run, watched 4 times" in found.words["verdict"]
        assert "training" in {attrs.get("data-figure") for _, attrs in found.elements}


def test_a_large_run_stays_below_the_limit():
    rng = np.random.default_rng(0)
    networks = {f"layer_{n}": f"layer {n}" for n in range(12)}
    arrays = {}
    for name in networks:
        arrays |= {
            f"loaded/{name}/map.hh": rng.normal(size=(300, 300)),
            f"loaded/{name}/map.times": np.arange(300),
            f"loaded/{name}/map.starts": np.arange(300),
            f"loaded/{name}/gate.f": rng.uniform(size=(500, 512)),
            f"loaded/{name}/gate.i": rng.uniform(size=(500, 512)),
        }
    found = page({"kind": "inspection", "networks": networks}, arrays)
    assert MOST_BYTES / 4 < len(found.text.encode()) < MOST_BYTES
    assert len(found.numbers["maps"]) == 12
    notes = found.words["map"] + found.words["gates"]
    assert " of 300 × 300 pairs." in notes and " of 512 units are shown." in notes


def test_a_folder_that_is_no_run_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(OutputError, match=r"^No run: expected results.json, .* got none\.$"):
        gradient_flow.report(tmp_path, tmp_path / "page.html")
    with pytest.raises(OutputError, match=r"^Missing folder: expected .* got no folder"):
        gradient_flow.report(tmp_path / "gone", tmp_path / "page.html")
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(OutputError, match=r"^Unreadable file: expected JSON"):
        gradient_flow.report(tmp_path, tmp_path / "page.html")
    with pytest.raises(TypeError, match="expected a run's folder, or a result"):
        gradient_flow.report(3, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_half_a_run_says_what_is_missing(tmp_path, inspection):
    results, arrays = inspection
    folder = inspected.write_run(tmp_path / "run", results, arrays)
    (folder / "arrays.npz").write_bytes((folder / "arrays.npz").read_bytes()[:2000])
    found = Page(page_of(read_numbers(folder), PLOTLY))
    assert "Unreadable file: expected an .npz" in found.words["problems"]
    assert "Vanishing, for a lag of 16 steps." in found.words["verdict"]
    (folder / "results.json").unlink()
    write_arrays(folder / "arrays.npz", arrays)
    (folder / "environment.json").write_text("[]")
    found = Page(page_of(read_numbers(folder), PLOTLY))
    assert "expected the lags of curve.hh in results.json, got none" in found.words["problems"]
    assert "expected names and values" in found.words["problems"]
    assert found.numbers["maps"] and not found.numbers["curves"]


def test_a_result_in_memory_and_its_folder_have_the_same_page(tmp_path, inspection):
    pytest.importorskip("plotly")
    results, arrays = inspection
    folder = inspected.write_run(tmp_path / "run", results, arrays)
    out = gradient_flow.report(folder, tmp_path / "page.html")
    memory = gradient_flow.report(
        SimpleNamespace(results=results, arrays=arrays), tmp_path / "m.html"
    )
    assert out.stat().st_size < MOST_BYTES
    one, other = (path.read_text(encoding="utf-8") for path in (out, memory))
    assert Page(one).numbers == Page(other).numbers
    with pytest.raises(OutputError, match="Unwritable page: expected to write"):
        gradient_flow.report(folder, tmp_path / "none" / "page.html")
    with pytest.raises(OutputError, match="Unwritable page: expected to write"):
        gradient_flow.report(folder, tmp_path)


def test_without_plotly_one_sentence_says_how_to_get_it(tmp_path, inspection, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    folder = inspected.write_run(tmp_path / "run", *inspection)
    with pytest.raises(
        OutputError, match=r"expected plotly .* Do pip install 'lstm-jax\[report\]'\.$"
    ):
        gradient_flow.report(folder, tmp_path / "page.html")
