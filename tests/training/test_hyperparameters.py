"""Numbers of an optimizer: swept, logged, and found unchanged by a resumed run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparison import slow
from training.problems import TARGETS, leaves, line, run

from lstm_jax import training
from lstm_jax.training import CheckpointError, RunError, RunOptions
from lstm_jax.training.hyperparameters import labels_of, update_constants

RESUME = RunOptions(log_every=4, resume=True, progress=False)
RATES = {"learning_rate": [0.1, 0.02]}


def sgd(rate=0.5, **more):
    return optax.inject_hyperparams(optax.sgd)(learning_rate=rate, **more)


@pytest.mark.parametrize("seed", [slow(3), (3, 4)])
def test_a_sweep_over_learning_rates_is_its_runs_one_by_one(tmp_path, seed):
    swept = run(8, optimizer=sgd(), seed=seed, hyperparameters=RATES, folder=tmp_path)
    seeds = (3, 3) if seed == 3 else seed
    for n, (one, rate) in enumerate(zip(seeds, RATES["learning_rate"], strict=True)):
        alone = run(8, optimizer=optax.sgd(rate), seed=one)
        found, wanted = swept.state.params["w"][n], alone.state.params["w"]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        losses = [entry["loss"] for entry in alone.log]
        np.testing.assert_allclose([e["loss"][n] for e in swept.log], losses, rtol=1e-5)
    np.testing.assert_allclose(swept.log[-1]["learning_rate"], RATES["learning_rate"], rtol=1e-6)
    # It goes on with its own rates, and with no others.
    other = {"learning_rate": [0.1, 0.03]}
    told = r"expected hyperparameters.learning_rate \[0.1, 0.02\], as in .* got \[0.1, 0.03\]"
    with pytest.raises(CheckpointError, match=told):
        run(12, optimizer=sgd(), seed=seed, hyperparameters=other, folder=tmp_path, options=RESUME)
    again = run(
        12, optimizer=sgd(), seed=seed, hyperparameters=RATES, folder=tmp_path, options=RESUME
    )
    assert len(again.log) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": [0.1]}, "expected hyperparameters among learning_rate, .*, got 'rate'"),
        ({}, "expected hyperparameters as a dict of lists"),
        ([0.1], "expected hyperparameters as a dict of lists"),
        ({"learning_rate": 0.1}, "learning_rate as a list of numbers, got 0.1"),
        ({"learning_rate": []}, r"learning_rate as a list of numbers, got \[\]"),
        ({"learning_rate": ["a"]}, "learning_rate as a finite number, got 'a'"),
        ({"learning_rate": [0.1], "momentum": [0.1, 0.2]}, "expected 1 numbers in momentum, .* 2"),
    ],
)
def test_numbers_that_no_sweep_can_use_are_refused(without_type_checker, given, message):
    momentum = {"momentum": 0.9} if "momentum" in given else {}
    with pytest.raises(RunError, match=message):
        run(4, optimizer=sgd(**momentum), hyperparameters=given)


def test_an_optimizer_without_numbers_by_name_has_no_sweep():
    with pytest.raises(RunError, match=r"among none, .* optax.inject_hyperparams\(optax.adam\)"):
        run(4, optimizer=optax.sgd(0.1), hyperparameters=RATES)
    with pytest.raises(RunError, match="expected 3 numbers in learning_rate, .* got 2"):
        run(4, optimizer=sgd(), hyperparameters=RATES, seed=(1, 2, 3))


def test_runs_are_named_by_what_differs():
    assert labels_of((3, 4), {}) == ["seed 3", "seed 4"]
    assert labels_of((3, 3), {"rate": (0.1, 0.2)}) == ["rate 0.1", "rate 0.2"]
    assert labels_of((3, 4), {"rate": (0.1, 0.2)}) == ["seed 3, rate 0.1", "seed 4, rate 0.2"]
    assert labels_of((3, 3), {"rate": (0.1, 0.1)}) == ["run 0, rate 0.1", "run 1, rate 0.1"]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (optax.sgd(0.1), optax.sgd(0.25), "expected 0.1 among .*, as in .*/4, got 0.25"),
        (optax.adam(0.1), optax.adam(0.1, b2=0.99), "expected 0.001 among .* got 0.01"),
        (
            optax.sgd(optax.cosine_decay_schedule(0.1, 100)),
            optax.sgd(optax.cosine_decay_schedule(0.1, 200)),
            "expected 100 among .* got 200",
        ),
        (sgd(0.1), sgd(0.2), "hyperparameters.learning_rate 0.1, as in .*, got 0.2"),
    ],
    ids=["sgd", "adam", "schedule", "injected"],
)
def test_a_changed_number_of_the_optimizer_is_told(tmp_path, first, second, told):
    run(4, optimizer=first, folder=tmp_path)
    with pytest.raises(CheckpointError, match=told):
        run(8, optimizer=second, folder=tmp_path, options=RESUME)
    run(8, optimizer=first, folder=tmp_path, options=RESUME)


def test_every_constant_of_an_update_is_found():
    params = line.init(jax.random.key(0))
    found = update_constants(optax.adam(0.125, b1=0.75, b2=0.5), params)
    assert {0.125, 0.75, 0.5} <= set(map(abs, found))
    for optimizer in (optax.lbfgs(), optax.contrib.reduce_on_plateau(), optax.lion(1e-3)):
        assert update_constants(optimizer, params) == update_constants(optimizer, params) != []


def test_the_learning_rate_is_logged_where_a_state_has_it():
    schedule = optax.linear_schedule(1.0, 0.0, 8)
    fitted = run(8, optimizer=sgd(schedule))
    # That of the last step: the fourth and the eighth.
    assert [entry["learning_rate"] for entry in fitted.log] == [0.625, 0.125]
    assert "learning_rate" not in run(4).log[-1]
    # The problem's own number of that name stays.
    named = line._replace(loss=lambda *a: (line.loss(*a)[0], (None, {"learning_rate": 2.0})))
    assert run(4, named, sgd()).log[-1]["learning_rate"] == 2.0


@pytest.mark.parametrize(
    "optimizer",
    [optax.inject_hyperparams(optax.adam)(learning_rate=0.1), optax.contrib.prodigy()],
    ids=["adam", "prodigy"],
)
def test_a_state_that_goes_on_in_another_dtype_begins_in_it(optimizer):
    """The states of some optimizers begin in the dtype of the parameters, and rates are float32."""
    half = line._replace(
        init=lambda key: {"w": line.init(key)["w"].astype("bfloat16"), "v": jnp.ones(())},
        loss=lambda p, c, b, k: line.loss(jax.tree.map(lambda w: w.astype("float32"), p), c, b, k),
    )
    fitted = run(8, half, optimizer)
    assert fitted.state.params["w"].dtype == "bfloat16"
    begun = training.init_state(half, optimizer, 0).optimizer
    for before, after in zip(leaves(begun), leaves(fitted.state.optimizer), strict=True):
        assert before.dtype == after.dtype
    with jax.numpy_dtype_promotion("standard"):
        plain = optimizer.init(fitted.state.params)
    assert [one.dtype for one in leaves(plain)] != [one.dtype for one in leaves(begun)]


def test_skipped_updates_are_counted_and_the_others_averaged(tmp_path):
    data = np.array(TARGETS)
    data[2] = np.nan
    words = {"data": data, "folder": tmp_path, "on_nonfinite": "skip"}
    fitted = run(8, **words)
    assert [entry["skipped"] for entry in fitted.log] == [1, 1]
    assert np.isfinite([entry["loss"] for entry in fitted.log]).all()
    assert np.isfinite(fitted.state.params["w"]).all() and fitted.state.step == 8
    # A run that was stopped goes on when it skips.
    with pytest.raises(training.DivergedError, match="at step 11"):
        run(16, data=data, folder=tmp_path, options=RESUME)
    swept = run(8, data=data, on_nonfinite="skip", seed=(0, 1))
    assert swept.log[-1]["skipped"] == [1, 1] and swept.diverged == {}
    np.testing.assert_allclose(swept.state.params["w"][0], fitted.state.params["w"], rtol=1e-6)
