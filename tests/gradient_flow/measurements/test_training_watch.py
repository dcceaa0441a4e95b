"""A watched training run: what is recorded against the microscope itself, the files, and the pictures."""

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradient_flow
import lstm_jax
from gradient_flow import flow_watch, gate_activations, jacobian_norms, layer_norms, read_watch
from gradient_flow.command_line import cli
from gradient_flow.measurements.curve_summary import lag_grid
from gradient_flow.measurements.training_watch import QUANTILES
from gradient_flow.pictures.watch_figures import draw_watch
from gradient_flow.results_folder import OutputError
from lstm_jax.training import Problem, RunOptions, fit, read_log

T, B, H = 12, 2, 4
# Both layers alike, so that they share what is compiled.
CELL = lstm_jax.lstm(H, H)
NET = lstm_jax.stack(CELL, CELL, residual=True)
PICTURES = ("norms_over_training", "horizon_over_training", "gates_over_training")


XS = jax.random.normal(jax.random.key(1), (T, B, H))


def itself(params):
    return params, XS


def same(came, expected):
    # To rounding: the same numbers, from a program that was compiled together with another layer's.
    np.testing.assert_allclose(came, expected, rtol=1e-5, atol=1e-7)


def check_layer(seen, number, cell, params, xs, flow):
    for block, curve in flow.spectral.items():
        same(seen[f"{number}.curve.{block}"], curve)
        for name in ("horizon", "decades_per_100"):
            same(seen[f"{number}.{name}.{block}"], getattr(gradient_flow, name)(flow.lags, curve))
    for gate, values in gate_activations(cell, params, None, xs).items():
        values = np.asarray(values, np.float64)
        named = f"{number}.gate.{gate}"
        same(seen[f"{named}.mean"], values.mean())
        same(seen[f"{named}.quantiles"], np.quantile(values, QUANTILES))
        if gate in "gn":
            assert seen[f"{named}.saturated"] == (abs(values) > 0.9).mean()
        else:
            assert seen[f"{named}.closed"] == (values < 0.1).mean()
            assert seen[f"{named}.open"] == (values > 0.9).mean()
        if gate == "f":
            units = values.mean(tuple(range(values.ndim - 1)))
            # 1/(1 − f) rises with f, so the quantiles of the one are those of the other.
            np.testing.assert_allclose(
                seen[f"{number}.time_constants"], 1 / (1 - np.quantile(units, QUANTILES))
            )


@pytest.mark.slow
def test_a_cells_records_are_what_the_microscope_gives():
    # Wide weights, so that gates saturate and shares are not all 0.
    params = jax.tree.map(lambda w: 4 * w, CELL.init(jax.random.key(0)))
    lags, xs = (0, 1, 4, 12), XS[:, 0]
    watch = flow_watch(CELL, lambda p: (p["cell"], xs), 5, lags=lags, blocks=["hh"])
    seen = watch.look({"cell": params})
    np.testing.assert_array_equal(seen["lags"], lags)
    flow = jacobian_norms(CELL, params, None, xs, lags=lags, blocks=["hh"], norms=["spectral"])
    check_layer(seen, 0, CELL, params, xs, flow)
    assert {name.split(".")[0] for name in seen} == {"lags", "0"}
    assert seen["0.curve.hh"].shape == (4,)
    assert 0 < seen["0.gate.f.open"] < 1


@pytest.mark.slow
def test_a_stacks_records_are_those_of_each_layer():
    params = NET.init(jax.random.key(0))
    seen = flow_watch(NET, itself, 5).look(params)
    lags = lag_grid((T,))
    flows = layer_norms(NET, params, None, XS, lags=lags, blocks=("hh", "cc"), norms=["spectral"])
    _, ys = lstm_jax.unroll(CELL, params.layers[0], XS)
    for number, drive in enumerate((XS, ys)):
        check_layer(seen, number, CELL, params.layers[number], drive, flows[number])
        assert seen[f"{number}.curve.cc"].shape == (B, len(lags))
        assert seen[f"{number}.horizon.hh"].shape == (B,)


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_look():
    watch = flow_watch(NET, itself, 5)
    watch.look(NET.init(jax.random.key(0)))
    heard = []

    def listen(event, duration, **about):
        # Checking the arguments asks for the shapes of parameters, which traces no step.
        if "compile" in event and about.get("fun_name") not in ("init", "initial_state"):
            heard.append((event, about))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        # Equal, but made anew: as in a run that goes on, or for a watch with another stride.
        other = flow_watch(lstm_jax.stack(*NET.layers, residual=True), itself, 7)
        params = jax.tree.map(lambda w: w + 0.1, NET.init(jax.random.key(2)))
        heard.clear()
        watch.look(params)
        other.look(params)
        assert heard == []
        jax.jit(lambda x: x + 1)(jnp.ones(3))
        assert {event.rsplit("/")[-1] for event, _ in heard} >= {
            "jaxpr_trace_duration",
            "backend_compile_duration",
        }
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_states_that_overflow_leave_nan_and_training_goes_on():
    net = lstm_jax.stack(lstm_jax.rnn(H, H, activation="relu"), CELL)
    params = net.init(jax.random.key(0))
    params = params._replace(
        layers=(jax.tree.map(lambda w: abs(w) * 1e12, params.layers[0]), params.layers[1])
    )
    seen = flow_watch(net, itself, 5, blocks=("hh", "cc")).look(params)
    for name in ("0.curve.hh", "0.horizon.hh", "1.horizon.cc", "1.gate.g.mean", "1.gate.f.open"):
        assert np.isnan(seen[name]).all()
    assert seen["0.curve.hh"].shape == (B, *seen["lags"].shape)
    # A vanilla network has no memory beside its state.
    assert "0.curve.cc" not in seen
    assert "0.time_constants" not in seen


def problem():
    def loss(params, carry, batch, key):
        _, ys = lstm_jax.unroll_stack(NET, params, batch)
        return ((ys - 0.5) ** 2).mean(), (carry, {})

    return Problem(
        init=NET.init,
        loss=loss,
        batch=lambda data, step, key: data + jax.random.normal(jax.random.fold_in(key, step), data.shape),
    )  # fmt: skip


def train(folder, steps, **options):
    watch = flow_watch(NET, itself, 3)
    options = RunOptions(
        log_every=2, checkpoint_every=None, progress=False, watches=[watch], **options
    )
    return fit(
        problem(), optax.adam(0.05), steps, data=XS, folder=folder, options=options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with jax.numpy_dtype_promotion("standard"):
        train(folder, 7)
    return folder


def test_a_run_leaves_its_records(finished):
    records = read_watch(finished / "flow")
    np.testing.assert_array_equal(records.steps, [0, 3, 6, 7])
    assert records.arrays["0.curve.hh"].shape == (4, B, len(lag_grid((T,))))
    assert records.arrays["0.gate.f.quantiles"].shape == (4, 5)
    assert np.ptp(records.arrays["0.curve.hh"][:, :, -1], axis=0).all()


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_records_of_one_that_was_not_stopped(
    finished, tmp_path, standard_promotion
):
    train(tmp_path, 4)
    (tmp_path / "flow" / ".partial-9.npz").write_bytes(b"half")
    train(tmp_path, 7, resume=True)
    whole, parts = read_watch(finished / "flow"), read_watch(tmp_path / "flow")
    # The shorter run looked at its own end as well.
    assert parts.steps.tolist() == [0, 3, 4, 6, 7]
    for name, values in whole.arrays.items():
        np.testing.assert_array_equal(parts.arrays[name][[0, 1, 3, 4]], values)


@pytest.mark.slow
def test_the_pictures(finished, tmp_path, standard_promotion):
    paths = draw_watch(finished / "flow", read_log(finished), tmp_path / "new")
    assert [path.stem for path in paths] == list(PICTURES)
    for path in paths:
        assert path.stat().st_size > 10_000
        assert path.with_suffix(".svg").stat().st_size > 10_000
    assert "training loss" in (tmp_path / "new" / "horizon_over_training.svg").read_text()


@pytest.mark.slow
def test_a_horizon_beyond_the_lags_is_drawn_above_them(tmp_path, standard_promotion):
    lags = np.arange(11)
    for step in range(3):
        rates = -np.asarray([[0.1, 2.0, 1.0], [0.1, 0.1, 0.2]]) * (step + 0.5)
        curves = rates[..., None] * lags
        curves[1, 0, 3:] = -np.inf if step else np.nan
        np.savez(
            tmp_path / f"{step:09d}.npz",
            lags=lags,
            **{
                "0.curve.hh": curves[0],
                "0.horizon.hh": gradient_flow.horizon(lags, curves[0]),
                "1.curve.hh": curves[1],
                "1.horizon.hh": gradient_flow.horizon(lags, curves[1]),
                "1.gate.u.mean": np.float64(0.5),
                "1.gate.u.quantiles": np.linspace(0.1, 0.9, 5),
                "1.gate.u.closed": np.float64(0.1),
                "1.gate.u.open": np.float64(0.2),
            },
        )
    log = [{"step": 1, "loss": [2.0, 3.0]}, {"step": 2, "loss": ["nan", 2.5]}]
    _, path, _ = draw_watch(tmp_path, log)
    assert "> 10" in path.with_suffix(".svg").read_text().replace("&gt;", ">")


@pytest.mark.slow
def test_the_command_line_draws_a_run_folder(finished, capsys, standard_promotion):
    assert cli.main(["draw", str(finished)]) == 0
    assert capsys.readouterr().out.count("picture:") == 3
    assert {path.name for path in (finished / "flow").glob("*.svg")} == {
        f"{n}.svg" for n in PICTURES
    }
    assert cli.main(["draw", str(finished / "flow")]) == 0


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (TypeError, "expected a cell or a stack to watch, got function", (itself, itself, 5), {}),
        (TypeError, "expected of as a function", (CELL, XS, 5), {}),
        (ValueError, "expected every to be a positive integer, got 0", (CELL, itself, 0), {}),
        (ValueError, "expected lags as rising", (CELL, itself, 5), {"lags": [3, 1]}),
        (ValueError, "expected lags as rising", (CELL, itself, 5), {"lags": []}),
        (ValueError, "Unknown block", (CELL, itself, 5), {"blocks": ["nope"]}),
        (ValueError, "expected at least one of blocks", (CELL, itself, 5), {"blocks": []}),
        (ValueError, "expected name as that of a folder", (CELL, itself, 5), {"name": "a/b"}),
        (
            TypeError,
            "got a bidirectional layer 1",
            (lstm_jax.stack(lstm_jax.bidirectional(CELL)), itself, 5),
            {},
        ),
        (
            ValueError,
            "expected a stack without zoneout",
            (lstm_jax.stack(CELL, zoneout=0.1), itself, 5),
            {},
        ),
    ],
)
def test_what_cannot_be_watched_is_refused(
    without_type_checker, error, message, arguments, options
):
    with pytest.raises(error, match=message):
        flow_watch(*arguments, **options)


def test_what_does_not_fit_is_refused_at_the_first_look(without_type_checker):
    params = CELL.init(jax.random.key(0))
    with pytest.raises(TypeError, match=r"expected of\(params\) as \(network_params, xs\)"):
        flow_watch(CELL, lambda p: p, 5).look(params)
    with pytest.raises(lstm_jax.ShapeError, match=r"expected xs \[T, 4\]"):
        flow_watch(CELL, lambda p: (p, XS[..., :2]), 5).look(params)
    with pytest.raises(ValueError, match="expected lags from 0 to 12, got 13"):
        flow_watch(CELL, itself, 5, lags=[1, 13]).look(params)
    with pytest.raises(ValueError, match="NaN|nan"):
        flow_watch(CELL, lambda p: (p, XS * jnp.nan), 5).look(params)


def test_records_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(OutputError, match="Missing folder"):
        read_watch(tmp_path / "none")
    with pytest.raises(OutputError, match="No records"):
        read_watch(tmp_path)
    np.savez(tmp_path / "000000000.npz", a=np.zeros(3))
    with pytest.raises(OutputError, match="Unknown records"):
        draw_watch(tmp_path)
    np.savez(tmp_path / "000000005.npz", a=np.zeros(4))
    with pytest.raises(OutputError, match="Mixed records"):
        read_watch(tmp_path)
    (tmp_path / "000000005.npz").write_bytes(b"PK")
    with pytest.raises(
        OutputError, match="Unreadable file: .*000000005.npz, got no .* to read the other 1"
    ):
        read_watch(tmp_path)


def records(**changes):
    """What a watch of an LSTM records in two looks of two samples, with some of it changed."""
    ends = {f"0.gate.f.{end}": np.zeros(()) for end in ("mean", "open", "closed")}
    whole = {
        "lags": np.arange(4),
        "0.curve.hh": np.zeros((2, 4)),
        "0.horizon.hh": np.ones(2),
        "0.gate.f.quantiles": np.zeros(5),
        **ends,
        "0.time_constants": np.ones(5),
    }
    return {name: array for name, array in (whole | changes).items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0.horizon.hh": None}, r"expected numbers \[2\] in 0.horizon.hh in .*, got none"),
        ({"0.horizon.hh": np.ones(3)}, r"numbers \[2\] in 0.horizon.hh .*got numbers \[3\]"),
        (
            {"0.curve.hh": np.zeros((2, 5))},
            r"numbers \[2, 4\] in 0.curve.hh .*got numbers \[2, 5\]",
        ),
        ({"0.curve.hh": np.zeros(3)}, r"numbers \[4\] in 0.curve.hh"),
        ({"0.gate.f.quantiles": None}, r"numbers \[5\] in 0.gate.f.quantiles .*got none"),
        ({"0.gate.f.open": None}, "in 0.gate.f.open .*got none"),
        ({"0.gate.f.mean": None}, "in 0.gate.f.mean .*got none"),
        ({"0.time_constants": np.ones(4)}, "in 0.time_constants"),
        ({"0.curve.hh": np.full((2, 4), "a")}, "expected numbers in 0.curve.hh .*got str"),
        ({"lags": np.arange(4)[0]}, "in lags"),
    ],
)
def test_records_of_other_names_and_shapes_are_one_sentence(tmp_path, capsys, changes, message):
    for step in (0, 5):
        np.savez(tmp_path / f"{step:09d}.npz", **records(**changes))
    with pytest.raises(OutputError, match=f"Unknown records: .*{message}"):
        draw_watch(str(tmp_path))
    assert cli.main(["draw", str(tmp_path)]) == 2
    printed, said = capsys.readouterr()
    assert printed == "" and said.count("\n") == 1


def test_a_log_of_another_kind_is_one_sentence(tmp_path, capsys):
    (tmp_path / "flow").mkdir()
    for step in (0, 5):
        np.savez(tmp_path / "flow" / f"{step:09d}.npz", **records())
    for log in (
        '{"step": 1, "loss": 1}\n{"step": 2, "loss": [1, 2]}\n',
        '{"step": 1, "loss": "a"}\n',
        "[]\n[]\n",
    ):
        (tmp_path / "log.jsonl").write_text(log)
        assert cli.main(["draw", str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("folder", ["", 3])
def test_what_is_no_path_is_refused(folder, without_type_checker):
    with pytest.raises(OutputError, match="expected folder as a path"):
        read_watch(folder)
