"""Results in a notebook: small tables, and figures that hold the numbers."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

import gradient_flow
from gradient_flow.result_display import MOST_ROWS, curves_table, html_table
from gradient_flow.verdicts.finding import Finding

LN10 = np.log(10)
HOSTILE = "<script>alert(1)</script>"
LAGS = np.array([0, 1, 2, 10, 30])
DECADES = np.array([[0.0, -0.2, -0.5, -2.0, -9.0], [0.0, -0.4, -0.7, -4.0, -11.0]])
NORMS = {"hh": LN10 * DECADES, "cc": 2 * LN10 * DECADES}


def curves(**changes):
    whole = {"lags": LAGS, "times": np.array([30]), "spectral": NORMS}
    return gradient_flow.JacobianNorms(**whole | {"frobenius": {}, "smallest": {}} | changes)


DETOURS = gradient_flow.DetourNorms(
    LAGS, np.arange(3), {"cc": np.stack([NORMS["hh"]] * 3, -1) - [0, 1, np.inf]}, {}, NORMS, {}
)
GATES = gradient_flow.GatePaths(
    ((), ("f",)), LAGS, {"hh": np.stack([NORMS["hh"], NORMS["cc"]], 1)}, {}
)
GRID = np.where(np.tri(4, 5, 0, dtype=bool), -LN10, np.nan)
PAIRS = gradient_flow.PairNorms(np.arange(1, 5), np.arange(5), {"hh": GRID}, {}, {})
CREDIT = gradient_flow.Credit(
    {"h": np.linspace(-9, 0, 5), "c": np.full(5, -np.inf)}, np.arange(4.0), {"f": np.zeros(4)}, {}
)
SPECTRUM = gradient_flow.SingularSpectrum(
    np.array([1, 5]), LN10 * np.array([[0, -1], [-5, -9]]), None
)
DRAWN = (curves(), DETOURS, GATES, PAIRS, CREDIT, SPECTRUM)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("result", DRAWN, ids=[type(one).__name__ for one in DRAWN])
def test_a_result_draws_itself_and_shows_a_small_table(result):
    ax = result.plot()
    assert ax.lines or ax.collections
    assert ax.get_xlabel() and ax.get_ylabel()
    figure, given = plt.subplots()
    assert result.plot(given) is given and given.figure is figure
    table = result._repr_html_()
    assert table.startswith("<table>") and table.count("<tr>") < 30 and len(table) < 3000


def test_the_lines_are_medians_in_powers_of_ten():
    lines = curves().plot().lines
    np.testing.assert_allclose(lines[0].get_ydata(), np.median(DECADES, axis=0))
    assert [line.get_label() for line in lines[:2]] == ["hh", "cc"]
    # Of several times the latest, with a batch or without one.
    for several in (np.stack([DECADES, 3 * DECADES], 1), np.stack([DECADES[0], 3 * DECADES[0]])):
        found = curves(times=np.array([20, 30]), spectral={"hh": LN10 * several}).plot().lines[0]
        last = several[..., -1, :].reshape(-1, 5)
        np.testing.assert_allclose(found.get_ydata(), np.median(last, axis=0))
    line = SPECTRUM.plot().lines[1]
    assert line.get_label() == "lag 5"
    np.testing.assert_allclose(line.get_ydata(), [-5, -9])
    line = GATES.plot().lines[1]
    assert line.get_label() == "f"
    np.testing.assert_allclose(line.get_ydata(), 2 * np.median(DECADES, axis=0))
    np.testing.assert_allclose(DETOURS.plot().lines[0].get_ydata(), np.median(DECADES, axis=0))
    assert CREDIT.plot().lines[2].get_xdata().tolist() == [1, 2, 3, 4]


def test_a_block_that_is_not_there_is_refused():
    with pytest.raises(
        ValueError, match=r"^Option mismatch: expected block as one of hh, got 'cc'\.$"
    ):
        PAIRS.plot(block="cc")


def test_the_table_of_curves_has_medians_at_some_lags():
    table = curves()._repr_html_()
    assert "<th>lag 1</th><th>lag 10</th><th>lag 30</th>" in table
    assert "<tr><td>hh</td><td>10^-0.3</td><td>10^-3.0</td><td>10^-10.0</td></tr>" in table
    assert "<td>cc, more</td><td>exactly 0</td>" in DETOURS._repr_html_()
    nowhere = curves_table("", LAGS, {"hh": np.full(5, np.nan)})
    assert "<td>hh</td><td>–</td>" in nowhere


def test_the_other_results_have_tables():
    one = np.array([1.5, np.inf, np.nan])
    constants = gradient_flow.TimeConstants(one, one, one, one)
    assert "<td>effective</td><td>3</td><td>1.5</td>" in constants._repr_html_()
    gain = gradient_flow.StepGain(one, {"f": one}, {}, {}, {}, one)
    assert "<td>norm of f</td>" in gain._repr_html_()
    two = np.array([0.1234, -1.0])
    spectrum = gradient_flow.LyapunovSpectrum(two, two / 10, np.array([1]), two[None], two, two)
    assert "<tr><td>1</td><td>0.1234</td><td>0.012</td></tr>" in spectrum._repr_html_()
    probes = gradient_flow.ProbeNorms(
        LAGS, *[NORMS["hh"]] * 3, LAGS[1:2], *[NORMS["hh"][:, :1]] * 2
    )
    assert probes._repr_html_().count("<table>") == 2


def test_a_verdict_is_a_table_of_its_sentences():
    finding = Finding("horizon", f"It falls. {HOSTILE}", {})
    found = gradient_flow.Diagnosis("vanishing", 10, 3.0, (finding,), (finding,), (finding,))
    table = found._repr_html_()
    assert "Verdict: vanishing, for a lag of 10 steps." in table
    assert table.count("It falls.") == 3 and "<td>would change it</td>" in table
    assert HOSTILE not in table and "&lt;script&gt;" in table


def test_a_long_table_is_cut():
    table = html_table("", ["n", "of"], [[n, HOSTILE] for n in range(MOST_ROWS + 3)])
    assert table.count("<tr>") == MOST_ROWS + 2 and "and 3 more" in table and HOSTILE not in table


def test_drawing_leaves_a_notebooks_backend_as_it_is():
    program = (
        "import matplotlib; matplotlib.use('svg'); from gradient_flow.pictures import result_figures; "
        "print(matplotlib.get_backend())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "svg"
