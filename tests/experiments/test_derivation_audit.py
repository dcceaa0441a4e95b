"""The derivation audit: each fault in its place, each correction to 1e-12, the sayings, the command line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments.derivation_audit import (
    chain,
    claim,
    claims,
    exercises,
    networks,
    recursion,
    report,
    run,
    word_level,
)
from experiments.derivation_audit.clipping import cosine, credit
from experiments.derivation_audit.derivations import audited, derivations
from experiments.derivation_audit.plain_lstm import GATES, forward, problem, softmax_loss, step
from experiments.running import Mismatch

from gradient_flow import audit
from lstm_jax import LSTMState, RNNParams

WRONG = {
    ("chain", "published"): dict.fromkeys("ifgohc", 2),
    ("recursion", "published"): dict.fromkeys("ifgohc", 2),
    ("word_level", "published"): dict.fromkeys([*"ifgohcv", "b_y"], 0),
    ("word_level", "without the sigmoid'"): dict.fromkeys("ifohc", 1) | {"g": 0},
    ("word_level", "without the second tanh"): dict.fromkeys([*"ifgohcv", "b_y"], 0),
    ("cell_exercise", "published"): dict.fromkeys(["w_x", "w_h", "b"], 0),
    ("sequence_exercise", "published"): dict.fromkeys("ifgohc", 1),
    ("sequence_exercise", "carrying C alone"): dict.fromkeys("ifgohc", 1),
    ("sequence_exercise", "carrying h alone"): dict.fromkeys("ifgc", 1) | dict.fromkeys("oh", 2),
}


@pytest.fixture(scope="module")
def audits():
    with jax.enable_x64(True):
        return {derivation.name: audited(derivation) for derivation in derivations(3)}


@pytest.mark.parametrize(("name", "version"), list(WRONG))
def test_each_published_version_is_wrong_in_its_leaves_and_from_its_lag(audits, name, version):
    found = audits[name][version]
    # A gate's three leaves are wrong together.
    starts = {}
    for leaf, lag in found.wrong.items():
        assert starts.setdefault(leaf.split(".")[0], lag) == lag
    assert starts == WRONG[name, version]
    # Wrong by far more than rounding.
    assert found.worst[2] > 0.05


@pytest.mark.parametrize(
    "name", ["chain", "recursion", "word_level", "cell_exercise", "sequence_exercise"]
)
def test_with_the_named_term_put_back_each_agrees(audits, name):
    found = audits[name]["corrected"]
    assert found.ok, str(found)
    assert max(leaf.by_lag.max() for leaf in found.leaves) <= 1e-12
    assert max(leaf.whole for leaf in found.leaves) <= 1e-12
    # Every gate has something to be compared, at the last lag too.
    if name in ("chain", "recursion", "word_level"):
        assert found.lags[-1] == 11
        assert all(leaf.sizes[-1] > 1e-7 for leaf in found.leaves if leaf.name[0] in "ifghco")


def test_with_a_loss_at_every_step(x64):
    arguments = problem(1, 6, 4, classes=3, every=True)
    for module, first in ((recursion, 2), (word_level, 0)):
        for version, start in (("published", first), ("corrected", None)):
            found = audit(getattr(module, version), step, softmax_loss, *arguments, loss_at="every")
            assert found.ok == (start is None)
            assert min(found.wrong.values(), default=None) == start


def test_what_the_recursion_leaves_out_is_the_fourth_block(x64):
    """The difference at lag 2 against ∂C_{t+1}/∂h_t by autodiff, times f_{t+2} ⊙ δC_{t+2}."""
    params, state0, xs = problem(2, 6, 4, classes=3, batch=1)
    kept = forward(params, state0, xs)
    wrong = recursion.published(params, state0, xs)
    right = recursion.corrected(params, state0, xs)
    t = 3  # T = 6, so that lag 2 is step 4, at index 3
    state = LSTMState(jnp.asarray(kept.h[t]), jnp.asarray(kept.c[t]))
    x = {"x": xs["x"][t + 1]}
    block = jax.jacrev(lambda h: step(params, state._replace(h=h), x)[0].c)(state.h)[0, :, 0]
    left_out = (kept.f[t + 2, 0] * right.c[t + 2]) @ np.asarray(block)
    np.testing.assert_allclose(right.h[t] - wrong.h[t], left_out, rtol=1e-12, atol=1e-15)
    assert np.abs(left_out).max() > 1e-4


def test_the_product_of_one_step_derivatives_against_autodiff(x64):
    params, state0, xs = problem(4, 5, 3, batch=1, spread=3.0)
    kept = forward(params, state0, xs)

    def after(c, k, steps, held=False):
        """C after ``steps`` steps, h_k following C_k."""
        h = kept.o[k, 0] * jnp.tanh(c)
        state = LSTMState(h[None], c[None])
        for t in range(k + 1, k + 1 + steps):
            state, _ = step(params, state, {"x": xs["x"][t]})
        return state.c[0]

    errors = chain.product_errors(params, kept)
    product = np.eye(3)
    for lag in range(1, 5):
        k = 4 - lag
        product = product @ np.asarray(jax.jacrev(lambda c, k=k: after(c, k, 1))(kept.c[k, 0]))
        total = np.asarray(jax.jacrev(lambda c, k=k, n=lag: after(c, k, n))(kept.c[k, 0]))
        expected = np.linalg.norm(product - total) / np.linalg.norm(total)
        assert errors[lag - 1] == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert errors[0] < 1e-14 and errors[1:].min() > 1e-3


def test_the_exercises_print_what_their_published_versions_give(x64):
    digits = {"cell": exercises.cell_digits(), "sequence": exercises.sequence_digits()}
    run.require_digits(digits)
    assert [len(numbers) for numbers in digits.values()] == [3, 13]
    # Carrying what has to be carried, the printed numbers do not come out.
    params, state0, xs = exercises.drawn_sequence()
    right = exercises.sequence_corrected(params, state0, xs)
    printed = {item.name: float(item.text) for item in exercises.SEQUENCE_BACKWARD}
    assert abs(right.f.b.sum(0)[4] - printed["dbf"]) > 1e-3
    with pytest.raises(Mismatch, match=r"cell, dba: expected the printed 0\.5, got 0\.25"):
        run.require_digits({"cell": {"dba": ("0.5", 0.25)}})


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("-0.0565788", -0.056578799570614, True),
        ("-0.0565788", -0.056578811, False),
        ("0.80517166", 0.80517166480491, True),
        ("0.102371820249", 0.10237182024854, True),
        ("0.102371820249", 0.1023718202, False),
    ],
)
def test_printed_digits(text, value, same):
    assert run.same_digits(text, value) is same


def test_a_correction_that_is_wrong_or_a_fault_that_hides_is_refused(audits):
    run.require_verdicts(audits)
    versions = audits["chain"]
    for swapped in (
        {"corrected": versions["published"]},
        {"published": versions["corrected"]},
    ):
        with pytest.raises(Mismatch, match=r"^chain, \w+: expected it (right|wrong), got "):
            run.require_verdicts({"chain": swapped})


@pytest.mark.parametrize(
    ("held", "verdict"),
    [((True, True), "true"), ((True, False), "partly true"), ((False, False), "false")],
)
def test_a_verdict_is_what_its_cases_say(held, verdict):
    cases = tuple(claim.one_case("a case", 1.0, holds) for holds in held)
    said = claim.Saying("n", "said", "measure", cases, "instead", (), "x", "y")
    assert said.verdict == verdict
    assert f"“said”: {verdict.upper()}" in report.saying_table(said)
    # The same of two seeds, in one saying.
    both = claim.over_seeds([said, said._replace(cases=cases[::-1])])
    assert both.verdict == verdict
    assert [case.held for case in both.cases] == [held, held[::-1]]
    assert f"{sum(held)} of 2" in report.saying_table(both)


def test_what_a_forget_gate_keeps():
    kept = claims.kept_share(5.0, 300)
    np.testing.assert_allclose(kept, (1 / (1 + np.exp(-5.0))) ** np.arange(301), rtol=1e-9)


def test_angles():
    assert cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(np.sqrt(0.5))


def test_the_program_by_hand_and_for_autodiff_is_one(x64):
    params, state0, xs = problem(5, 4, 3)
    kept = forward(params, state0, xs)
    state = state0
    for t in range(4):
        state, _ = step(params, state, {"x": xs["x"][t]})
        np.testing.assert_allclose(kept.h[t], state.h, rtol=1e-13)
        np.testing.assert_allclose(kept.c[t], state.c, rtol=1e-13)
    assert all(np.ptp(getattr(kept, gate)) > 0.05 for gate in GATES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one quick run through the command line."""
    out = tmp_path_factory.mktemp("derivation_audit") / "results"
    # Optax's Adam raises a float to a whole number.
    with jax.numpy_dtype_promotion("standard"):
        assert run.main(["--quick", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_a_quick_run_writes_everything(finished):
    assert {path.name for path in finished.iterdir()} == {
        "arrays.npz",
        "derivations.png",
        "environment.json",
        "results.json",
        "sayings.png",
        "tables.txt",
    }
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in results["derivations"]] == [
        "chain",
        "recursion",
        "word_level",
        "cell_exercise",
        "sequence_exercise",
    ]
    for entry in results["derivations"]:
        versions = entry["versions"]
        assert [label for label, found in versions.items() if found["ok"]] == ["corrected"]
    assert results["printed_digits_reproduced"] == 16
    assert [said["name"] for said in results["sayings"]] == [
        "constant",
        "switches",
        "exceeds",
        "three_hundred",
        "closing",
        "relu",
        "clipping",
    ]
    assert all(len(said["cases"]) >= 4 for said in results["sayings"])
    tables = (finished / "tables.txt").read_text(encoding="utf-8")
    assert tables.count("PARTLY TRUE") + tables.count(": FALSE") + tables.count(": TRUE") == 7
    for picture in ("derivations.png", "sayings.png"):
        assert (finished / picture).read_bytes()[:4] == b"\x89PNG"
    with np.load(finished / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays["product_error_1"].shape == (30, 10)
        # The additive path can not exceed 1, whatever the network.
        assert arrays["three_hundred_0_y"][0] == 0


@pytest.mark.slow
def test_a_quick_run_says_the_same_of_the_untrained_networks(finished):
    """What needs no training is judged as in the full run."""
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    cases = {
        (said["name"], case["what"]): (case["values"][0], case["held"][0])
        for said in results["sayings"]
        for case in said["cases"]
    }
    assert cases["three_hundred", "forget bias 0, untrained"][0] < -50
    assert cases["three_hundred", "forget bias 1, untrained"][0] < -10
    assert cases["three_hundred", "chrono, untrained"][1] is False
    for (name, what), (value, holds) in cases.items():
        if name == "exceeds" and what.startswith("additive path"):
            assert value < 0 and not holds
        if name == "clipping" and "longest gradient" in what:
            assert value <= 1.0001 and holds


@pytest.mark.slow
def test_a_finished_run_is_not_overwritten_unasked(finished, capsys):
    before = (finished / "results.json").read_bytes()
    assert run.main(["--quick", "--out", str(finished)]) == 2
    error = capsys.readouterr().err
    assert "--overwrite" in error and error.count("\n") == 1
    assert (finished / "results.json").read_bytes() == before


@pytest.mark.parametrize("args", [["--sede", "1"], ["--seed", "one"], ["--quick", "maybe"]])
def test_a_wrong_option_is_refused(args, capsys):
    with pytest.raises(SystemExit) as stop:
        run.main(args)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_negative_seed_is_refused(tmp_path, capsys):
    assert run.main(["--out", str(tmp_path / "out"), "--seed", "-1"]) == 2
    assert "expected --seed from 0 to" in capsys.readouterr().err
    assert run.main(["--out", str(tmp_path / "out"), "--seeds", "0"]) == 2
    assert "expected --seeds of at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failed_run_leaves_the_finished_one_as_it_was(tmp_path, monkeypatch, capsys):
    def fails(config):
        raise Mismatch("chain, corrected: expected it right, got wrong.")

    monkeypatch.setattr(run, "compute", fails)
    (tmp_path / "results.json").write_text("old", encoding="utf-8")
    assert run.main(["--out", str(tmp_path), "--overwrite"]) == 1
    assert capsys.readouterr().err.startswith("error: chain, corrected")
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == "old"


def seen(f, curve, i=0.0):
    """A network looked at with forget gates ``f`` [T], other gates ``i``, and one curve for all blocks."""
    gates = {
        "f": np.asarray(f)[:, None, None] * np.ones((1, 1, 3)),
        "i": np.full((len(f), 1, 3), i),
    }
    gates["o"] = gates["i"]
    lags = np.arange(len(curve))
    blocks = ("hh", "total_c", "carousel", "chain_c")
    return networks.Look(None, lags, dict.fromkeys(blocks, np.asarray(curve)), gates)


def all_looks(look):
    names = dict.fromkeys(("lstm_0", "lstm_1", "lstm_chrono", "rnn"), look)
    return networks.Looks(names, names, names, None, {})


def test_sayings_hold_where_they_are_made_to_hold():
    lags = np.arange(401)
    held = all_looks(seen(np.full(400, 0.99), -0.1 * lags, i=0.01))
    assert claims.constant(held).verdict == "true"
    assert claims.switches(held).verdict == "true"
    assert claims.three_hundred(held).verdict == "true"
    assert claims.exceeds(held).verdict == "false"
    holding = claims.closing(held).cases
    assert all(all(c.held) and c.value == 1.0 for c in holding if c.what.startswith("share"))


def test_sayings_fail_where_they_are_made_to_fail():
    lags = np.arange(401)
    other = all_looks(seen(0.5 + 0.4 * np.sin(lags[:400] / 60), 0.001 * lags, i=0.5))
    found = claims.constant(other)
    assert found.verdict == "false"
    # ∏ of 100 factors at every place, by brute force.
    f = 0.5 + 0.4 * np.sin(lags[:400] / 60)
    products = np.log10([np.prod(f[t : t + 100]) for t in range(301)])
    assert found.cases[0].value == pytest.approx(np.ptp(products), rel=1e-6)
    assert claims.switches(other).verdict == "false"
    assert claims.three_hundred(other).verdict == "false"
    assert claims.exceeds(other).verdict == "true"
    assert not any(any(c.held) for c in claims.closing(other).cases if c.what.startswith("share"))


def test_the_credit_of_each_lag_by_numpy_loops():
    sizes = networks.Sizes(hidden=5, batch=2, length=7)
    inputs = networks.corpus().vocabulary.size
    cell, key = networks.plain("rnn", inputs, 5), jax.random.key(4)
    model = networks.begin(networks.cells(inputs, 5)["rnn"], inputs, key)
    codes = np.asarray(networks.text_batch(sizes, key))
    w_x, w_h, b, w_y, b_y = (np.asarray(a, np.float64) for a in jax.tree.leaves(model))
    hs = [np.zeros((2, 5))]
    for row in codes[:-1]:
        hs.append(np.tanh(w_x[row] + hs[-1] @ w_h + b))
    powers = np.exp(hs[-1] @ w_y + b_y)
    d_h = (powers / powers.sum(1, keepdims=True) - np.eye(inputs)[codes[-1]]) @ w_y.T
    norms = [np.linalg.norm(d_h)]
    for h in hs[:1:-1]:
        d_h = (d_h * (1 - h**2)) @ w_h.T
        norms.append(np.linalg.norm(d_h))
    expected = np.log10(np.array(norms) / norms[0])
    np.testing.assert_allclose(credit(cell, model, sizes, key), expected, atol=1e-4)
    assert expected[-1] < -0.5


def test_sizes_of_states_by_numpy_loops():
    cell = networks.plain("relu", 3, 4)
    rng = np.random.default_rng(0)
    params = RNNParams(
        *(jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((3, 4), (4, 4), (4,)))
    )
    xs = jnp.asarray(rng.standard_normal((6, 2, 3)), jnp.float32)
    h, most = np.zeros((2, 4)), []
    for x in np.asarray(xs, np.float64):
        h = np.maximum(
            x @ np.float64(params.w_x) + h @ np.float64(params.w_h) + np.float64(params.b), 0
        )
        most.append(np.log10(np.abs(h).max()))
    np.testing.assert_allclose(claims.sizes_of_states(cell, params, xs), most, rtol=1e-6)
