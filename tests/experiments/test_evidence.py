"""Claims come from stored runs, pages hold what is stored, and a number that changed is found."""

import json

import pytest
from experiments.evidence import check, claim, pages, run, stored
from experiments.evidence.claims import CLAIMS

from gradient_flow.results_folder import OutputError


def test_every_claim_comes_from_a_stored_run():
    for one in CLAIMS:
        line = claim.line_of(one)
        assert len(line) == len(claim.HEADER)
        assert all(cell for cell in line), line
        # A number without seeds says that it is one look, or exact.
        assert line[2] in ("one look", "exact") or int(line[2].split()[0]) > 1


def test_the_pages_are_what_is_stored():
    assert pages.stale_pages() == []


def test_stored_runs_are_small_and_name_no_place():
    folders = {one.experiment for one in CLAIMS}
    for name in folders:
        for path in (stored.EXPERIMENTS / name / "stored").iterdir():
            text = path.read_text(encoding="utf-8")
            # The rows of `which_lags` are what its tables are made from.
            assert len(text) <= (2_000_000 if path.suffix == ".csv" else stored.MOST_BYTES)
            assert not any(place in text for place in ("/tmp/", "/home/", "/work/", "/root/"))


def test_numbers_in_words():
    assert claim.evaluated([1.0, 3.0, 2.0], "{:.1f}") == ("2.0", "3", "1.0 … 3.0")
    assert claim.evaluated([1.0], "{:.1f}") == ("1.0", "one look", "-")
    assert claim.evaluated([True, False, True], "") == ("2 of 3", "3", "-")
    assert claim.evaluated("all", "") == ("all", "exact", "-")


def test_a_table_goes_between_its_marks(tmp_path):
    page = tmp_path / "README.md"
    second = f"{pages.begin('second')}\nold\n{pages.END}"
    text = f"before\n\n{pages.begin()}\nold\n{pages.END}\nbetween\n{second}\nafter"
    made = {"": "| new |", "second": "| other |"}
    found = pages.with_tables(text, made, page)
    assert found == (
        f"before\n\n{pages.begin()}\n\n| new |\n\n{pages.END}\nbetween\n"
        f"{pages.begin('second')}\n\n| other |\n\n{pages.END}\nafter"
    )
    assert pages.with_tables(found, made, page) == found
    for missing in ("a page without", text.replace("second", "third")):
        with pytest.raises(OutputError, match="No marks"):
            pages.with_tables(missing, made, page)


def test_what_differs():
    old = {
        "seconds": 1.0,
        "a": [1.0, 100.0],
        "b": {"c": "x", "d": None},
        "e": True,
        "output": 1e-14,
    }
    assert list(check.differences(old, {**old, "seconds": 9.0})) == []
    # A name that holds "out" is no folder, and rounding is no difference.
    assert list(check.differences(old, {**old, "output": -3e-15})) == []
    assert next(check.differences(old, {**old, "output": 2.0})).where == ".output"
    # Within 5 % of the largest of the list.
    assert list(check.differences(old, {**old, "a": [4.0, 104.0]})) == []
    (found,) = check.differences(old, {**old, "a": [1.0, 120.0]})
    assert found == (".a[1]", 100.0, 120.0)
    (found,) = check.differences(old, {**old, "b": {"c": "y", "d": None}})
    assert found == (".b.c", "x", "y")
    (found,) = check.differences(old, {**old, "e": False})
    assert found == (".e", True, False)
    assert len(list(check.differences(old, {**old, "a": [1.0]}))) == 1
    (found,) = check.differences({"x": {"y": 1, "z": 2}}, {"x": {"z": 3, "w": 4}})
    assert found == (".x", "with ['y']", "with ['w']")


def test_a_run_is_stored_in_small(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stored, "EXPERIMENTS", tmp_path)
    monkeypatch.setattr(run, "EXPERIMENTS", tmp_path)
    (tmp_path / "mine").mkdir()
    folders = []
    for seed in range(2):
        folder = tmp_path / f"out{seed}"
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps({"x": 1 / 3 + seed}), encoding="utf-8")
        folders.append(str(folder))
    given = ["--store", "mine/two", "--folders", *folders, "--command", "python -m x"]
    assert run.main([*given, "--minutes", "2"]) == 0
    found = stored.read_run("mine", "two")
    assert found["results"] == [{"x": 0.333333}, {"x": 1.33333}]
    assert (found["command"], found["minutes"], found["transcribed"]) == ("python -m x", 2, False)
    more = [*given[:3], folders[1], *given[-2:], "--add", "--minutes", "1.5"]
    assert run.main(more) == 0
    found = stored.read_run("mine", "two")
    assert found["results"] == [{"x": 0.333333}, {"x": 1.33333}, {"x": 1.33333}]
    assert found["minutes"] == 3.5
    assert run.main(["--store", "mine/three", *more[2:]]) == 2
    assert "expected three of mine, got none" in capsys.readouterr().err
    (tmp_path / "out1" / "results.json").unlink()
    assert run.main(given) == 2
    assert "expected results.json in" in capsys.readouterr().err
    assert run.main(["--store", "mine"]) == 2
    assert run.main(["--store", "mine/two"]) == 2
    assert run.main(["--store", "mine/two", "--write"]) == 2
    assert capsys.readouterr().err.count("error: ") == 3
    with pytest.raises(OutputError, match="No stored run"):
        stored.read_run("mine", "three")


def test_a_number_that_changed_ends_the_check(monkeypatch, capsys):
    monkeypatch.setattr(run, "stale_pages", list)
    monkeypatch.setattr(run, "checked", lambda name: [check.Difference(".x", 1.0, 2.0)])
    assert run.main(["--check", "--only", "rnn_by_hand"]) == 1
    said = capsys.readouterr()
    assert "rnn_by_hand has 1 other numbers" in said.err and ".x: 1.0 stored, 2.0 now" in said.out
    assert run.main(["--check", "--only", "nothing"]) == 2
    monkeypatch.setattr(run, "checked", lambda name: [])
    assert run.main(["--check", "--only", "rnn_by_hand"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gate_walkthrough", "rnn_by_hand"])
def test_a_quick_run_gives_what_is_stored(name):
    assert check.checked(name) == []


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--add"], "expected --store with --add"),
        (["--command", "python -m x", "--minutes", "2"], "expected --store with --command, --min"),
        (["--only", "ptb", "--write"], "expected --check with --only"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(arguments, needed, capsys):
    assert run.main(arguments) == 2
    assert needed in capsys.readouterr().err
