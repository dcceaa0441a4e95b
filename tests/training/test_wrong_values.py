"""Wrong values at the border of the room of training: problems, optimizers, options, states, checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.problems import TARGETS, fit_flat, line
from wrong_values import KEY, Tensor, cases, require_refused

import lstm_jax
from lstm_jax import training
from lstm_jax.training import Checkpoints, Problem, Watch
from lstm_jax.training.gradient_penalty import state_cotangents, vanishing_penalty

pytestmark = pytest.mark.usefixtures("without_type_checker")

SGD = optax.sgd(0.1)
STATE = training.init_state(line, SGD, 0)
CELL = lstm_jax.rnn(3, 4)
PARAMS = CELL.init(KEY)
HS = jnp.ones((5, 2, 4))


def with_loss(value, metrics=None):
    return line._replace(loss=lambda params, carry, batch, key: (value, (carry, metrics or {})))


def with_init(params):
    return line._replace(init=lambda key: params)


WRONG = {
    "problem": [None, 3, "x", line._asdict(), tuple(line), Problem],
    "functions": [
        line._replace(init=3),
        line._replace(init=lambda: 0),
        line._replace(loss=lambda params: 0),
        line._replace(batch=None),
        line._replace(batch=lambda data: data),
        line._replace(carry=lambda one: one),
    ],
    "begun": [
        with_init(None),
        with_init(3.0),
        with_init("x"),
        with_init({"w": [1.0]}),
        with_init({"w": Tensor()}),
        with_init({"w": np.array(["a"])}),
        line._replace(carry=lambda: "x"),
        line._replace(carry=lambda: Tensor()),
    ],
    "stepped": [
        with_loss("x"),
        with_loss(None),
        with_loss(Tensor()),
        with_loss(1.0, {"a": Tensor()}),
        with_loss(1.0, {"a": np.array("x")}),
        with_loss(1.0, {"a": {"b": 1.0}}),
        *[
            line._replace(batch=lambda data, step, key, wrong=wrong: wrong)
            for wrong in ("x", Tensor(), object())
        ],
    ],
    "optimizer": [None, 3, "adam", optax.sgd, {}, tuple(SGD)],
    "seed": ["x", None, 1.5, True, -1, 2**32, 2**70, [1, 2], KEY, np.array(1.5), object()],
    "seeds": ["12", b"x", [], [1, 1], [1.5], ["a"], KEY, np.array([[1, 2]]), {1, 2}, (None,)],
    "dtype of a step": ["no", 3, True, ["float32"], "int32", "int8", bool, object()],
    "mesh": [3, "data", jax.devices(), True],
    "data": ["x", Tensor(), object(), {"a": "x"}, [None, "b"], np.array(["a"])],
    "state": [
        None,
        {},
        tuple(STATE),
        STATE._replace(params=None),
        STATE._replace(params={"w": "x"}),
        STATE._replace(params={"w": Tensor()}),
        STATE._replace(step=None),
        STATE._replace(step=1.5),
        STATE._replace(key=None),
        STATE._replace(key=KEY),
        STATE._replace(key=jnp.ones(2)),
        STATE._replace(optimizer=3),
        training.init_state(line, optax.adam(0.1), 0),
    ],
    "arrays": ["x", object(), Tensor(), {"a": "x"}],
    "hs": [
        "x",
        None,
        3.0,
        Tensor(),
        [[1.0], [2.0, 3.0]],
        HS[..., :3],
        HS.astype(int),
        HS.astype(jnp.complex64),
    ],
    "params": [
        None,
        tuple(PARAMS),
        PARAMS._replace(b=None),
        PARAMS._replace(w_h=Tensor()),
        PARAMS._replace(w_h=3.0),
        jax.tree.map(lambda leaf: leaf.astype(int), PARAMS),
    ],
    "cell": [None, "rnn", lstm_jax.rnn, PARAMS, lstm_jax.gru(3, 4), lstm_jax.stack(CELL)],
}


def fitted(problem=line, optimizer=SGD, steps=2, **given):
    """`fit` up to its first step: what is wrong is refused before, or by it."""
    return fit_flat(problem, optimizer, steps, **{"data": TARGETS} | given)


def stepped(problem=line, optimizer=SGD, **given):
    """A step, traced."""
    state = training.init_state(line, SGD, 0)
    return jax.eval_shape(training.train_step(problem, optimizer, **given), state, TARGETS)


def one_step(state=STATE, data=TARGETS):
    return training.train_step(line, SGD)(state, data)


def decay(**given):
    return training.step_decay(
        **{"learning_rate": 1.0, "steps_per_epoch": 10, "hold": 4, "factor": 2.0} | given
    )


ENTRIES = [
    (
        training.init_state,
        {"problem": line, "optimizer": SGD, "seed": 0},
        {"problem": "problem", "optimizer": "optimizer", "seed": "seed"},
    ),
    (
        lambda problem: training.init_state(problem, SGD, 0),
        {"problem": line},
        {"problem": "functions"},
    ),
    (lambda problem: training.init_state(problem, SGD, 0), {"problem": line}, {"problem": "begun"}),
    (stepped, {}, {"problem": "problem", "optimizer": "optimizer", "accumulate": "size"}),
    (stepped, {}, {"problem": "functions", "compute_dtype": "dtype of a step", "mesh": "mesh"}),
    (stepped, {}, {"problem": "stepped", "mesh": [jax.make_mesh((1,), ("x",))]}),
    (one_step, {}, {"state": "state", "data": "data"}),
    (fitted, {}, {"problem": "problem", "optimizer": "optimizer", "steps": "size"}),
    (fitted, {}, {"seed": "seeds", "data": "data", "folder": "path"}),
    (fitted, {}, {"compute_dtype": "dtype of a step", "mesh": "mesh", "accumulate": "size"}),
    (fitted, {}, {"problem": "functions", "keep": "size", "log_every": "size"}),
    (fitted, {}, dict.fromkeys(("resume", "overwrite", "tensorboard", "progress"), "bool")),
    (fitted, {}, {"unit": ["x", 3, None, ("a",), ("a", 0), (3, "a"), ("a", 1.5), ("", 1)]}),
    (
        fitted,
        {},
        {
            "evaluate": [
                "f",
                lambda: 0,
                lambda params, more: 0,
                lambda params: None,
                lambda params: {"e": "x"},
                lambda params: {"e": None},
                lambda params: {3: 1.0},
                lambda params: {"loss": 1.0},
            ],
            "best": ["e", 3, ["e"]],
            "until": [
                "f",
                lambda: 0,
                lambda entry: "x",
                lambda entry: None,
                lambda entry: np.array([True, False]),
            ],
            "watches": [
                3,
                [3],
                {},
                [Watch("a", 0, dict)],
                [Watch("a", 1, lambda: 0)],
                [Watch("a", 1, lambda params: 3)],
                [Watch("a", 1, lambda params: {3: 1.0})],
                [Watch("a", 1, lambda params: {"x": "a"})],
                [Watch("a", 1, lambda params: {"x": object()})],
            ],
        },
    ),
    (
        decay,
        {},
        {
            "learning_rate": ["x", None, True, np.nan, np.inf, [1.0], jnp.ones(2), 1j, 0, -1],
            "steps_per_epoch": "size",
            "hold": "size",
            "factor": [0, 0.5, "x", None, True, np.nan, np.inf, [2.0], jnp.ones(2), 1j],
        },
    ),
    (
        training.data_mesh,
        {},
        {"devices": [3, "cpu", [3], [None], {}, jax.devices()[0], jax.devices() * 2, True, []]},
    ),
    (training.read_log, {"folder": "."}, {"folder": "path"}),
    (
        vanishing_penalty,
        {"cell": CELL, "params": PARAMS, "hs": HS, "d_totals": HS},
        {"cell": "cell", "params": "params", "hs": "hs", "d_totals": "hs", "squared": "bool"},
    ),
    (
        state_cotangents,
        {"cell": CELL, "params": PARAMS, "hs": HS, "d_hs": HS},
        {"hs": "hs", "d_state": ["s", 3, HS[0], lstm_jax.RNNState(None)]},
    ),
]


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("call", "given"), [entry[:2] for entry in ENTRIES])
def test_the_right_values_pass(in_empty_folder, call, given):
    if call is training.read_log:
        fit_flat(line, SGD, 2, data=TARGETS, folder=".")
    call(**given)


@pytest.mark.parametrize(("call", "given", "name", "value"), cases(ENTRIES, WRONG))
def test_a_wrong_value_is_refused(call, given, name, value):
    require_refused(call, given, name, value)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    found = Checkpoints(tmp_path_factory.mktemp("of_wrong_values"), {}, best="e")
    found.save(1, STATE, measured={"e": 1.0})
    yield found
    found.close()


WRONG_OF_CHECKPOINTS = [
    ("step", {"step": 2, "state": STATE}, "count"),
    ("state", {"step": 2, "state": STATE}, "arrays"),
    (
        "measured",
        {"step": 2, "state": STATE, "measured": {"e": 1.0}},
        [3, "x", {"f": 1.0}, {"e": "x"}, {"e": np.nan}, {"e": None}, {3: 1.0}],
    ),
    ("more", {"step": 2, "state": STATE}, [object(), {1, 2}, np.nan, len]),
]
KINDS = [(None, given, {name: kind}) for name, given, kind in WRONG_OF_CHECKPOINTS]


@pytest.mark.parametrize(("call", "given", "name", "value"), cases(KINDS, WRONG))
def test_a_checkpoint_of_wrong_values_is_not_written(checkpoints, call, given, name, value):
    require_refused(checkpoints.save, given, name, value)
    assert checkpoints.steps() == [1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("like", like) for like in (*WRONG["arrays"], {}, STATE._replace(params={"w": "x"}))],
        *[("step", step) for step in (0, 2.5, "1", [1], 5)],
    ],
)
def test_a_checkpoint_is_not_read_as_something_else(checkpoints, name, value):
    require_refused(checkpoints.restore, {"like": STATE}, name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("last", 0),
        ("best", 3),
        ("best", ["e"]),
        ("settings", None),
        ("settings", {1: 2}),
        ("folder", 3),
    ],
)
def test_checkpoints_of_wrong_options_are_refused(in_empty_folder, name, value):
    require_refused(Checkpoints, {"folder": "c", "settings": {}}, name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("coordinator", value) for value in (None, 3, "x", "x:", ":12", "x:99999", b"h:1", True)],
        *[("process", value) for value in (-1, 2, 1.5, True, "0", None, [0])],
        *[("processes", value) for value in (0, 2.5, "2", None)],
    ],
)
def test_processes_that_cannot_be_are_refused(monkeypatch, name, value):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **more: None)
    given = {"coordinator": "127.0.0.1:1", "processes": 2, "process": 0}
    training.start_processes(**given)
    require_refused(training.start_processes, given, name, value)
