"""The starts do what they claim, side by side is alone, what is stopped goes on, evidence is counted."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiments.lag_tasks import TASKS, first_solved
from experiments.which_lags import evidence, measures, run, starts, store, train
from experiments.which_lags.groups import Group, all_groups, quick_groups
from experiments.which_lags.report import beside_small, report
from experiments.which_lags.rows import (
    FLOW,
    PLAIN,
    PREDICTORS,
    joined,
    read_rows,
    rows_of,
    write_rows,
)

from gradient_flow import jacobian_norms
from gradient_flow.results_folder import OutputError
from lstm_jax import unroll

pytestmark = pytest.mark.usefixtures("standard_promotion")

TINY = Group("tanh", 4, "recall", 6, updates=20, rates=(0.01,), seeds=1, looks=(0, 20))


def start_named(network, name):
    (found,) = [start for start in starts.starts_of(network) if start.name == name]
    return found


def made(network, name, size=8):
    start = start_named(network, name)
    return starts.plain_cell(network, 3, size), starts.parameters(start, 3, size, jax.random.key(1))


def test_the_plan_s_numbers():
    every = starts.all_starts()
    assert len(every) == 59 == len({start.full_name for start in every})
    assert len({start.family for start in every}) == 17
    groups = all_groups()
    assert len(groups) == 120 == len({group.name for group in groups})
    assert groups[0].task == "recall" and {group.length for group in groups} == {25, 50, 100, 200}
    # Eight hours of a core are four of two; what is solved ends early.
    assert 4 < sum(group.most_seconds for group in groups) / 3600 < 9
    assert set(PLAIN) | set(FLOW) < set(PREDICTORS)


@pytest.mark.slow
def test_what_the_disagreeing_starts_claim():
    xs = jax.random.normal(jax.random.key(0), (20, 3))
    cell, params = made("tanh", "shift")
    found = jacobian_norms(cell, params, None, xs, norms=["spectral"]).spectral["hh"]
    assert np.isfinite(found[:8]).all() and np.isneginf(found[8:]).all()
    # The memory keeps all of its gradient, and no loss sees anything of the state before.
    cell, params = made("lstm", "gate 1, no W_h")
    state = cell.initial_state()._replace(h=xs[:8, 0], c=xs[8:16, 0])
    jacobian = cell.step_jacobian(params, state, xs[0])
    assert not np.any(jacobian.h.h) and not np.any(jacobian.c.h)
    np.testing.assert_array_equal(jacobian.c.c, 1)

    def gate(network, name, which):
        cell, params = made(network, name)
        return np.stack([cell.gates(params, cell.initial_state(), x)[which] for x in xs[:5]])

    assert gate("lstm", "shut input", "i").max() < 0.01
    assert gate("gru", "shut update", "u").min() > 0.999
    for network, which in (("lstm", "f"), ("gru", "u")):
        gates = gate(network, "one unit remembers", which)
        assert gates[:, 0].min() > 0.99 and gates[:, 1:].max() < 0.8
    for network in ("tanh", "identity"):
        kept = np.asarray(made(network, "one unit remembers")[1].w_h)
        assert kept[0, 0] == 1 and not kept[0, 1:].any() and not kept[1:, 0].any()
        np.testing.assert_allclose(np.linalg.svd(kept[1:, 1:])[1], 0.5, rtol=1e-5)
    candidate = np.asarray(made("lstm", "wide candidate")[1].w_h)[:, 16:24]
    np.testing.assert_allclose(np.linalg.svd(candidate)[1], 2, rtol=1e-5)


def test_the_tasks_answers_and_places():
    key = jax.random.key(3)
    for name, task in TASKS.items():
        given = task.draw(key, 16, 30)
        assert given.xs.shape[1:] == (16, task.inputs), name
        assert given.targets.shape == (task.answers, 16), name
    given = TASKS["recall"].draw(key, 16, 30)
    symbols = np.asarray(given.xs).argmax(-1)
    np.testing.assert_array_equal(symbols[0], given.targets[0])
    assert symbols[1:].min() >= 4 and len(symbols) == 30
    given = TASKS["copy"].draw(key, 16, 30)
    symbols = np.asarray(given.xs).argmax(-1)
    np.testing.assert_array_equal(symbols[:3], given.targets)
    assert (
        (symbols[33] == 5).all() and ((symbols[3:] == 4).sum(0) == 32).all() and len(symbols) == 36
    )
    # From the symbol in question to the answer: the steps that the task calls its lag.
    np.testing.assert_array_equal(35 - TASKS["copy"].place(given.xs), TASKS["copy"].lag(30))
    given = TASKS["adding_uniform"].draw(key, 16, 30)
    place = np.asarray(TASKS["adding_uniform"].place(given.xs))
    marked = np.asarray(given.xs)[..., 1].argmax(0)
    np.testing.assert_array_equal(place, marked)
    given = TASKS["order"].draw(key, 16, 40)
    place = np.asarray(TASKS["order"].place(given.xs))
    assert (place >= 4).all() and (place <= 8).all()


@pytest.mark.slow
def test_side_by_side_is_alone_and_is_adam():
    group = replace(TINY, rates=(0.01, 0.002), side_by_side=4)
    together = {(e.run.start.name, e.run.rate): e for e in train.trained(group)}
    assert len(together) == 22 and {end.updates for end in together.values()} == {20}
    run_ = train.Run(start_named("tanh", "orthogonal 1.0"), 0, 0.002)
    task = TASKS["recall"]
    model = train.first_model(run_.start, task, 4, 0)
    cell = starts.plain_cell("tanh", 8, 4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(run_.rate))

    def loss(model, key):
        given = task.draw(key, 20, 6)
        state, _ = unroll(cell, model.cell, given.xs, gradient="autodiff")
        answers = state.h @ model.w_y + model.b_y[None]
        return optax.softmax_cross_entropy_with_integer_labels(answers, given.targets[0]).mean()

    @jax.jit
    def update(model, state, n):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(2**20), 0), n)
        moves, state = optimizer.update(jax.grad(loss)(model, key), state)
        return optax.apply_updates(model, moves), state

    state = optimizer.init(model)
    for n in range(20):
        model, state = update(model, state, jnp.int32(n))
    ours = together[run_.start.name, run_.rate].models[20]
    for expected, found in zip(jax.tree.leaves(model), jax.tree.leaves(ours), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_when_it_counts_as_solved():
    recall, adding = TASKS["recall"], TASKS["adding_uniform"]
    assert first_solved(np.ones(49), recall) is None
    assert first_solved(np.ones(50), recall) == 50
    scores = np.concatenate([np.zeros(30), np.ones(80)])
    # Of 50 one may be wrong: 49 are the first that are 98 % right.
    assert first_solved(scores, recall) == 30 + 49
    assert first_solved(np.full(200, 0.97), recall) is None
    assert first_solved(np.full(60, 0.011), adding) is None
    assert first_solved(np.full(60, 0.009), adding) == 50


def test_a_network_that_is_solved_goes_on_to_the_last_look():
    group = replace(TINY, updates=3_000, looks=(0, 20, 100))
    slot = train.Slot(train.runs_of(group)[0], {})
    slot.losses, slot.scores = [0.1] * 80, [1.0] * 80
    assert train.ended(slot, TASKS["recall"], group) is None
    slot.losses, slot.scores = [0.1] * 100, [1.0] * 100
    assert train.ended(slot, TASKS["recall"], group).solved == 50
    slot.scores = [0.5] * 100
    assert train.ended(slot, TASKS["recall"], group) is None
    slot.losses, slot.scores = [0.1] * 3_000, [0.5] * 3_000
    assert train.ended(slot, TASKS["recall"], group)[1:4] == (None, False, 3_000)
    slot.losses[60:] = [np.nan] * len(slot.losses[60:])
    assert train.ended(slot, TASKS["recall"], group).diverged


@pytest.mark.slow
def test_what_is_measured_of_a_shift_and_of_no_numbers():
    task = TASKS["recall"]
    names = ("shift", "identity 1.0")
    models = [train.first_model(start_named("tanh", name), task, 4, 0) for name in names]
    broken = jax.tree.map(lambda a: a * jnp.nan, models[0])
    stacked = jax.tree.map(lambda *a: np.stack(a), *models, broken)
    shift, identity, nothing = measures.measured("tanh", 4, "recall", 25, stacked)
    assert nothing is None
    assert shift["norm"] == -np.inf and shift["lambda_1"] == -np.inf and shift["survivors"] == 0
    assert shift["horizon"] * task.lag(25) <= 4 and shift["radius"] == 0
    assert shift["credit"] == -np.inf and np.isfinite(shift["credit_last"])
    assert identity["radius"] == pytest.approx(1) and identity["rest_radius"] == pytest.approx(0)
    cell = starts.plain_cell("tanh", 8, 4)
    xs = task.draw(jax.random.key(2**31 - 1), 2, 25).xs
    alone = jacobian_norms(
        cell, models[1].cell, None, xs, lags=[24], blocks=["hh"], norms=["spectral"]
    ).spectral["hh"]
    np.testing.assert_allclose(identity["norm"], np.mean(alone), rtol=1e-4)
    assert identity["norm"] == pytest.approx(24 * identity["lambda_1"], abs=2.0)


def brute_force_auc(scores, learned, weights):
    pairs = [
        (w * v, (a > b) + 0.5 * (a == b))
        for a, hit, w in zip(scores, learned, weights, strict=True)
        if hit
        for b, other, v in zip(scores, learned, weights, strict=True)
        if not other
    ]
    return sum(w * right for w, right in pairs) / sum(w for w, _ in pairs)


def test_the_auc_against_every_pair():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 40).astype(float)
    scores[:3] = (-np.inf, -np.inf, np.inf)
    learned = rng.random(40) < 0.4
    weights = rng.integers(0, 4, (3, 40))
    for n, found in enumerate(evidence.auc(scores, learned, weights)):
        assert found == pytest.approx(brute_force_auc(scores, learned, weights[n]), abs=1e-12)
    assert evidence.auc(scores, learned)[0] == pytest.approx(
        brute_force_auc(scores, learned, np.ones(40)), abs=1e-12
    )
    assert np.isnan(evidence.auc(scores, np.ones(40, bool))[0])


def invented_group(network, task, length, learns):
    """A stored group: who learns is what ``learns`` says of the norm that was measured."""
    group = Group(network, 32, task, length)
    rng = np.random.default_rng(len(network) * length)
    runs = []
    for start in starts.starts_of(network):
        for seed in range(3):
            norm = float(rng.normal(0, 8))
            for rate in group.rates:
                looks = {
                    str(look): {
                        "norm": norm, "horizon": float(rng.random()), "credit": float(rng.normal()),
                        "credit_last": 0.0, "time_constant": float(rng.random()),
                        "lambda_1": float(rng.normal()), "rest_radius": float(rng.normal()),
                        "radius": float(rng.random()), "survivors": float(rng.random()),
                        "angle": float(rng.random()),
                    }
                    for look in group.looks
                    if look or rate == group.rates[0]
                }  # fmt: skip
                solved = 500 if learns(norm) and rate == group.rates[0] else None
                runs.append(
                    {"start": start.name, "seed": seed, "rate": rate, "solved": solved,
                     "diverged": False, "updates": 500, "last": 1.0, "looks": looks}
                )  # fmt: skip
    return {"group": json.loads(json.dumps(group.__dict__)), "seconds": 1.0, "runs": runs}


def test_what_is_held_out_is_told_by_what_tells(tmp_path):
    groups = [
        invented_group(network, task, 50, lambda norm: abs(norm) < 6)
        for network in ("lstm", "tanh")
        for task in ("recall", "copy")
    ]
    groups[0]["runs"].reverse()  # in whatever order they were done
    rows = rows_of(groups)
    assert len(rows) == 2 * (18 + 11) * 3
    assert rows.learned.tolist() == [abs(norm) < 6 for norm in rows.norm]
    assert evidence.best_predictor(rows, 0, list(PREDICTORS)) == "two_sided"
    for folds in (rows.family, rows.task):
        chosen = evidence.chosen_elsewhere(rows, folds, 0, list(PREDICTORS))
        assert evidence.auc_interval(rows, chosen, 20).value > 0.99
        fitted = evidence.fitted_elsewhere(rows, folds, 0, list(FLOW))
        plain = evidence.fitted_elsewhere(rows, folds, 0, list(PLAIN))
        assert evidence.auc_interval(rows, fitted, 20).value > 0.95
        assert evidence.difference(rows, fitted, plain, 20).low > 0
    tables, numbers = report(rows, 120, 20)
    assert numbers["held_out_families"]["best"] == "two_sided"
    assert numbers["held_out_tasks"]["chosen"]["0"][0] > 0.99
    counts = [of["below"] for of in numbers["by_norm"]["recall"].values()]
    assert sum(of for _, of in counts) == int(
        (rows.norm[rows.task == "recall"] < np.log(1e-3)).sum()
    )
    assert "4 of 120 groups" in tables and "Held-out tasks" in tables
    assert "the best single one on all of them: two_sided" in tables
    vanished = rows.norm < np.log(1e-3)
    line = next(line for line in tables.splitlines() if line.startswith("recall: all"))
    own = vanished & (rows.task == "recall")
    assert f"{int(rows.learned[own].sum())} of {int(own.sum())}" in line
    # What is stored in small gives the same tables.
    write_rows(rows, tmp_path / "rows.csv")
    again = read_rows(tmp_path / "rows.csv")
    np.testing.assert_allclose(again.norm, rows.norm, rtol=1e-3)
    assert again.learned.tolist() == rows.learned.tolist()
    assert again.solved_at_rate.keys() == rows.solved_at_rate.keys()
    assert report(again, 120, 20) == (tables, numbers)
    (tmp_path / "rows.csv").write_text("network,task\n1\n", encoding="utf-8")
    with pytest.raises(OutputError, match="expected a table of rows"):
        read_rows(tmp_path / "rows.csv")


def test_large_networks_stand_beside_small_ones_of_the_same_groups():
    small = [
        invented_group(network, task, length, lambda norm: norm > 0)
        for network in ("lstm", "tanh")
        for task in ("recall", "copy")
        for length in (50, 100)
    ]
    large = invented_group("lstm", "recall", 50, lambda norm: norm > 0)
    large["group"]["hidden_size"] = 128
    every, big = rows_of(small), rows_of([large])
    found = beside_small(every, big)
    assert list(found) == ["recall, H = 32", "recall, H = 128"]
    beside = found["recall, H = 32"]
    assert set(beside.network) == {"lstm"} and set(beside.length) == {50}
    assert len(beside) == len(found["recall, H = 128"]) == len(big)
    tables, numbers = report(joined(every, big), 120, 20)
    assert numbers["tasks_of_128"]["norm"]["recall, H = 128"][0] == 1.0
    # What is said of all networks is said of the small ones alone.
    assert numbers["tasks"] == report(every, 120, 20)[1]["tasks"]


def test_a_row_that_could_not_be_measured_promises_least():
    group = invented_group("tanh", "recall", 50, lambda norm: norm > 0)
    for one in group["runs"][:2]:
        one["looks"] = dict.fromkeys(one["looks"])
    # Where nothing arrives at either end there is no difference.
    group["runs"][2]["looks"]["0"] |= {"credit": -np.inf, "credit_last": -np.inf}
    rows = rows_of([group])
    assert np.isneginf(rows.scores[0]["credit_two_sided"][1])
    for own in rows.scores.values():
        assert not any(np.isnan(scores).any() for scores in own.values())
    assert np.isneginf(rows.scores[0]["norm"][0]) and np.isnan(rows.norm[0])
    assert rows.scores[0]["lag"][0] == -49 and rows.scores[0]["is_chrono"][0] == 0


def test_logistic_finds_the_minimum():
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(80, 2))
    learned = columns[:, 0] + rng.normal(size=80) > 0.3
    found = evidence.logistic(columns, learned)

    def cost(w):
        z = w[0] + columns @ w[1:]
        return np.sum(np.log1p(np.exp(z)) - learned * z) + evidence.RIDGE * (w[1:] @ w[1:]) / 2

    for n in range(3):
        for move in (-1e-3, 1e-3):
            assert cost(found) < cost(found + move * np.eye(3)[n])


def test_a_run_that_is_stopped_goes_on_to_the_same(tmp_path, monkeypatch, capsys):
    two = (TINY, replace(TINY, length=7))
    monkeypatch.setattr(run, "quick_groups", lambda: two)
    numbers = invented_group("tanh", "recall", 50, lambda norm: True)["runs"][0]["looks"]["0"]
    calls = []

    def measured(network, size, task, length, models):
        calls.append(length)
        if stop and length == 7:
            raise KeyboardInterrupt
        return [numbers] * len(models.b_y)

    monkeypatch.setattr(run, "measured", measured)
    monkeypatch.setattr(run.plot, "predictors", lambda *given: run.plot.plt.figure())
    stop = False
    words = ["--quick", "--out"]
    assert run.main([*words, str(tmp_path / "whole")]) == 0
    assert "2 of 2 groups" in (tmp_path / "whole" / "tables.txt").read_text()
    stop = True
    out = tmp_path / "out"
    assert run.main([*words, str(out)]) == 130
    assert [path.name for path in (out / "groups").iterdir()] == ["recall-6-tanh-4.json"]
    assert run.main([*words, str(out), "--report"]) == 0
    assert "1 of 2 groups" in (out / "tables.txt").read_text()
    assert run.main([*words, str(out)]) == 2
    assert "Add --resume or --overwrite" in capsys.readouterr().err
    stop, calls[:] = False, []
    assert run.main([*words, str(out), "--resume"]) == 0
    assert set(calls) == {7}  # what was stored is not made again
    for group in two:
        whole, again = (
            store.read_group(store.group_file(f, group)) for f in (tmp_path / "whole", out)
        )
        assert whole["runs"] == again["runs"] and store.is_done(out, group)
        assert not store.is_done(out, replace(group, updates=40))


def test_a_run_adds_to_the_reported_one(tmp_path, monkeypatch, capsys):
    group = invented_group("tanh", "recall", 6, lambda norm: True)
    group["group"]["hidden_size"] = 4
    reported = rows_of([group])
    monkeypatch.setattr(run, "REPORTED", tmp_path / "rows.csv")
    write_rows(reported, run.REPORTED)
    two = (TINY, replace(TINY, length=7))
    monkeypatch.setattr(run, "all_groups", lambda: two)
    numbers = invented_group("tanh", "recall", 50, lambda norm: True)["runs"][0]["looks"]["0"]
    monkeypatch.setattr(run, "measured", lambda *given: [numbers] * len(given[-1].b_y))
    monkeypatch.setattr(run.plot, "predictors", lambda *given: run.plot.plt.figure())
    monkeypatch.setattr(run, "filmed_run", lambda stored: None)
    out = tmp_path / "out"
    assert run.main(["--reported", "--out", str(out)]) == 0
    assert "1 of 2 groups are left" in capsys.readouterr().out
    assert [path.name for path in (out / "groups").iterdir()] == ["recall-7-tanh-4.json"]
    assert "2 of 2 groups" in (out / "tables.txt").read_text()
    both = read_rows(out / "rows.csv")
    assert sorted(set(both.length)) == [6, 7]
    assert (both.length == 6).sum() == len(reported)
    # A rate that a run did not have has solved none of its rows.
    assert both.solved_at_rate[0.002].tolist() == (both.length == 6).tolist()
    for look, own in reported.scores.items():
        kept = both.scores[look]["norm"][both.length == 6]
        np.testing.assert_allclose(kept, own["norm"], rtol=1e-4)
    # One's own group takes the place of the reported one.
    own = tmp_path / "own"
    assert run.main(["--out", str(own), "--only", "recall-6"]) == 0
    assert run.main(["--reported", "--report", "--out", str(own)]) == 0
    assert "1 of 2 groups" in (own / "tables.txt").read_text()
    assert len(read_rows(own / "rows.csv")) == len(starts.starts_of("tanh"))


def test_refusals(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "REPORTED", tmp_path / "none.csv")
    out = ["--out", str(tmp_path / "out")]
    for words, said in (
        (["--only", "nothing"], "expected --only as a part of a name"),
        (["--resume", "--overwrite"], "expected --resume or --overwrite, got both"),
        (["--report", "--plan"], "expected --report or --plan, got both"),
        (["--reported", "--quick"], "expected --reported or --quick, got both"),
        (["--report"], "expected some that are done"),
        (["--report", "--quick"], "expected some that are done"),
    ):
        assert run.main([*words, *out]) == 2
        assert said in capsys.readouterr().err
    # Without --out it would be the reported run, which is not there.
    monkeypatch.chdir(tmp_path)
    assert run.main(["--report"]) == 2
    assert "expected a table of rows" in capsys.readouterr().err
    assert not Path("experiments").exists()  # where a run of one's own would go
    assert run.main(["--plan", *out]) == 0
    assert "120 of 120 groups are left" in capsys.readouterr().out
    path = store.group_file(tmp_path, TINY)
    path.parent.mkdir()
    path.write_text('{"runs": [{}]}')
    with pytest.raises(OutputError, match="expected group, seconds and runs"):
        store.read_group(path)


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    out = tmp_path / "out"
    assert run.main(["--quick", "--out", str(out)]) == 0
    assert "3 of 3 groups" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names >= {"groups", "tables.txt", "which_lags.png", "environment.json"}
    for group in quick_groups():
        stored = store.read_group(store.group_file(out, group))
        assert len(stored["runs"]) == len(train.runs_of(group))
        first = [one for one in stored["runs"] if one["rate"] == group.rates[0]]
        assert all(set(one["looks"]) == {"0", "20"} for one in first)
        assert all(np.isfinite(one["looks"]["0"]["radius"]) for one in first)
