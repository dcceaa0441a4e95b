"""The parameters of a run out of its folder: last, best, or of a step, in a structure or as names."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_array_equal

import lstm_jax
from lstm_jax import training
from lstm_jax.training import loaded_run

NET = lstm_jax.stack(lstm_jax.lstm(2, 3), lstm_jax.lstm(3, 3))
XS = jnp.ones((4, 2, 2))


def loss(params, carry, batch, key):
    _, ys = lstm_jax.unroll_stack(NET, params, batch)
    return jnp.mean((ys - 0.5) ** 2), (carry, {})


PROBLEM = training.Problem(init=NET.init, loss=loss, batch=lambda data, step, key: data)
VALUES = {2: 3.0, 4: 1.0, 6: 2.0, 8: 5.0}
MEASURED = (9.0, *VALUES.values())  # at the start too


def run(folder, seed=0, best="error", values=MEASURED):
    """Four evaluations, of which the second is the lowest; only the last checkpoint and the best are kept."""
    values = iter(values)

    def evaluate(params):
        value = next(values)
        return {"error": value if isinstance(seed, int) else np.full(len(seed), value)}

    options = training.RunOptions(
        log_every=2, checkpoint_every=2, evaluate_every=2, keep=1, progress=False,
        evaluate=evaluate, best=best, settings={"rate": 0.1},
    )  # fmt: skip
    return training.fit(
        PROBLEM, optax.sgd(0.1), 8, data=XS, folder=folder, options=options, seed=seed
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder)


def test_the_last_and_the_best(finished):
    folder, fitted = finished
    last = training.load(folder, like=jax.eval_shape(NET.init, jax.random.key(0)))
    assert last.step == 8 and last.measured == {"error": 5.0}
    assert jax.tree.structure(last.params) == jax.tree.structure(fitted.state.params)
    for one, other in zip(
        jax.tree.leaves(last.params), jax.tree.leaves(fitted.state.params), strict=True
    ):
        assert_array_equal(one, other)
    best = training.load(str(folder), "best")
    assert best.step == fitted.best == 4 and best.measured == {"error": 1.0}
    assert best.settings["rate"] == 0.1 and best.settings["seed"] == [0]
    assert_array_equal(training.load(folder / "checkpoints", 4).params["layers"][1]["w_h"],
                       best.params["layers"][1]["w_h"])  # fmt: skip
    assert not np.array_equal(best.params["layers"][0]["b"], last.params.layers[0].b)


def test_a_loaded_network_runs(finished):
    folder, fitted = finished
    params = training.load(folder, like=fitted.state.params).params
    assert_array_equal(
        lstm_jax.unroll_stack(NET, params, XS)[1],
        lstm_jax.unroll_stack(NET, fitted.state.params, XS)[1],
    )


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        (6, training.CheckpointError, "expected that of step 6 in .*, got 4, 8"),
        ("first", ValueError, "expected which as 'last', 'best' or a step, got 'first'"),
        (True, ValueError, "got True"),
    ],
)
def test_no_such_checkpoint(finished, which, error, message):
    with pytest.raises(error, match=message):
        training.load(finished[0], which)


def test_another_structure_is_named(finished):
    other = lstm_jax.stack(lstm_jax.lstm(2, 3), lstm_jax.lstm(3, 4))
    like = jax.eval_shape(other.init, jax.random.key(0))
    with pytest.raises(
        training.CheckpointError, match=r"layers.1.b 'float32\[12\]'.*float32\[16\]"
    ):
        training.load(finished[0], like=like)
    with pytest.raises(
        training.CheckpointError, match=r"expected layers None, as in .*/8, got .int64\[\]"
    ):
        training.load(finished[0], like={"layers": 1})


def test_a_checkpoint_that_the_run_deletes_meanwhile_makes_way_for_another(
    finished, tmp_path, monkeypatch
):
    shutil.copytree(finished[0], tmp_path / "run")
    read = loaded_run.about_of

    def deleted_meanwhile(folder, step, steps):
        if step == 8:
            shutil.rmtree(folder / "8")
        return read(folder, step, steps)

    monkeypatch.setattr(loaded_run, "about_of", deleted_meanwhile)
    assert training.load(tmp_path / "run").step == 4


def test_nothing_there(tmp_path):
    with pytest.raises(training.CheckpointError, match="expected a whole one in .*, got none"):
        training.load(tmp_path / "nowhere")


@pytest.mark.slow
def test_without_a_best_one(tmp_path):
    assert run(tmp_path, best=None).best is None
    with pytest.raises(training.CheckpointError, match="No best checkpoint"):
        training.load(tmp_path, "best")


def test_nothing_finite_is_the_best_one(without_type_checker, tmp_path):
    assert run(tmp_path, values=[9.0, *4 * [np.nan]]).best is None
    with pytest.raises(training.CheckpointError, match="expected one with a finite number"):
        training.load(tmp_path, "best")
    assert training.load(tmp_path, np.int64(8)).step == 8
    with pytest.raises(training.CheckpointError, match="expected that of step 7 in"):
        training.load(tmp_path, np.int64(7))


@pytest.mark.slow
def test_a_sweep_has_its_seeds_first(tmp_path):
    run(tmp_path, seed=(0, 1))
    assert training.load(tmp_path).params["layers"][0]["w_x"].shape == (2, 2, 12)


def test_a_damaged_array_is_found(finished, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    state = folder / "checkpoints" / "8" / "state"
    for path in state.rglob("*"):
        if path.is_file() and path.stat().st_size > 500 and path.parent.name == "d":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(bytes(content))
    with pytest.raises(training.CheckpointError, match="Damaged checkpoint.*go on from step 4"):
        training.load(folder)
    assert training.load(folder, 4).step == 4
