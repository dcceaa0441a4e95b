"""Networks out of files: the numbers are those of the measurements, the words say what was there."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import gradient_flow
import lstm_jax
from gradient_flow.command_line import inspect_command
from gradient_flow.command_line.cli import main
from gradient_flow.inspections.cell_in_steps import cell_in_steps
from gradient_flow.inspections.inputs import Inputs
from gradient_flow.inspections.inspection import _says, stages_of
from gradient_flow.inspections.network_of import network_of
from gradient_flow.pages.figure_numbers import figures
from gradient_flow.pages.run_numbers import from_results
from gradient_flow.pages.run_page import page_of
from gradient_flow.pages.screen_numbers import Limits
from gradient_flow.verdicts.reach import Case, layers_of

LAG, SAMPLES = 16, 2
NET = lstm_jax.stack(lstm_jax.lstm(3, 4), lstm_jax.lstm(4, 4))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A stack of two in PyTorch's names, in an .npz, beside what a checkpoint has besides."""
    params = NET.init(jax.random.key(0))
    arrays = {f"rnn.{k}": v for k, v in lstm_jax.weights.to_pytorch(NET, params).items()}
    path = tmp_path_factory.mktemp("model") / "model.npz"
    np.savez(path, **arrays, step=np.int64(7), **{"embed.weight": np.eye(5, 3, dtype="f")})
    return path


@pytest.fixture(scope="module")
def xs():
    return np.asarray(jax.random.normal(jax.random.key(1), (LAG, SAMPLES, 3)))


@pytest.fixture(scope="module")
def found(file, xs):
    return gradient_flow.inspect(file, xs, quick=True)


@pytest.fixture(scope="module")
def whole(file, xs):
    """With maps, paths, spectra and credit, each a program for each layer."""
    return gradient_flow.inspect(file, xs)


def cells_of(file, xs):
    """``(place among the arrays, case, parameters)`` of each layer."""
    net, params = lstm_jax.weights.load(file)
    parts = layers_of(Case(net, None, jnp.asarray(xs), LAG, True), params)
    return [(f"loaded/layer_{n}", case, own) for n, (_, _, case, own) in enumerate(parts)]


@pytest.mark.slow
def test_the_numbers_are_those_of_the_measurements(file, found, xs):
    net, params = lstm_jax.weights.load(file)
    assert net == NET and found.network.chosen == ("rnn",)
    for at, case, own in cells_of(file, xs):
        flow = gradient_flow.jacobian_norms(
            case.cell, own, None, case.xs, lags=found.results["lags"], blocks=("hh", "hc", "cc"),
            norms=["spectral"],
        )  # fmt: skip
        for block in ("hh", "hc", "cc"):
            assert_array_equal(found.arrays[f"{at}/curve.{block}"], flow.spectral[block])
        gates = gradient_flow.gate_activations(case.cell, own, None, case.xs[:, 0])
        assert_array_equal(found.arrays[f"{at}/gate.f"], gates["f"])
    direct = gradient_flow.diagnose(net, params, None, jnp.asarray(xs))
    assert str(found.diagnosis) == str(direct)


@pytest.mark.slow
def test_all_numbers_are_those_of_the_measurements(file, whole, xs):
    for at, case, own in cells_of(file, xs):
        pairs = gradient_flow.all_pairs_norms(
            case.cell, own, None, case.xs[:, 0], blocks=("hh",), norms=("spectral",)
        )
        assert_array_equal(whole.arrays[f"{at}/map.hh"], pairs.spectral["hh"])
        # Every unit is among those shown step by step.
        d_z = [whole.arrays[f"{at}/cell.d_z_{gate}"] for gate in "ifgo"]
        d_x = np.concatenate(d_z, axis=-1) @ np.asarray(own.w_x, np.float64).T
        credit = whole.arrays[f"{at}/credit"]
        np.testing.assert_allclose(credit, np.log(np.linalg.norm(d_x, axis=-1)), rtol=1e-4)
    wanted = {"map.hh", "autodiff", "detours.hh", "gate_paths.f+g", "spectrum", "credit"}
    assert wanted <= {name.removeprefix("loaded/layer_1/") for name in whole.arrays}


@pytest.mark.slow
def test_its_page_has_every_figure(whole):
    """A part of each for each layer."""
    found = whole
    run = from_results(found.results, found.arrays, "memory")
    parts = figures(run, Limits())
    assert parts.problems == [] and run.problems == ()
    assert {name: {one["network"] for one in of} for name, of in parts.parts.items()} == (
        dict.fromkeys(parts.parts, {"layer_0", "layer_1"})
    )
    # 0 … 4 detours and more, over as many lags as were walked.
    terms = np.array(parts.parts["detours"][0]["terms"], object)
    assert terms.shape == (6, len(parts.parts["detours"][0]["lags"]))
    page = page_of(run, "")
    assert "verdict is missing" not in page and 'id="problems"' not in page
    assert found.diagnosis.headline[1:] in page


@pytest.mark.slow
def test_what_is_told(found):
    says = found.results["says"]
    assert says[0].startswith("Inputs: 2 samples of 16 steps")
    assert "'rnn' (lstm, 3 to 4)" in says[1]
    assert any("Gates in PyTorch's order" in line for line in says)
    assert found.results["networks"] == {"layer_0": "rnn, layer 0", "layer_1": "rnn, layer 1"}
    assert str(found).endswith(str(found.diagnosis))
    json.dumps({k: v for k, v in found.results.items() if k != "verdicts"})
    wanted = {"curve.hh", "gate.i", "time_constant", "cell.d_c"}
    names = {name.removeprefix("loaded/layer_1/") for name in found.arrays}
    assert wanted <= names


def test_single_units_are_the_gradients_of_autodiff(x64):
    cell = lstm_jax.lstm(3, 4)
    params = cell.init(jax.random.key(2), float)
    xs, state = jax.random.normal(jax.random.key(3), (7, 3)), cell.initial_state()

    def loss(c, rest):
        after = state._replace(h=jnp.zeros(4), c=c)
        for x in rest:
            after, _ = cell.step(params, after, x)
        return jnp.sum(after.h**2) / 2

    steps = cell_in_steps(cell, params, state, xs)
    states = [state]
    for x in xs:
        states.append(cell.step(params, states[-1], x)[0])
    units = steps["units"]
    np.testing.assert_allclose(
        steps["h"], np.stack([s.h for s in states[1:]])[:, units], rtol=1e-12
    )
    for t in range(1, 8):

        def from_here(state, t=t):
            for x in xs[t:]:
                state, _ = cell.step(params, state, x)
            return jnp.sum(state.h**2) / 2

        expected = jax.grad(from_here)(states[t])
        np.testing.assert_allclose(steps["d_h"][t - 1], expected.h[units], rtol=1e-9, atol=1e-15)
        # The total cotangent of C_t has what comes by h_t = o ⊙ tanh C_t too.
        through_h = expected.h * steps_all(cell, params, states, xs, t)
        total = (expected.c + through_h)[units]
        np.testing.assert_allclose(steps["d_c"][t - 1], total, rtol=1e-9, atol=1e-15)


def steps_all(cell, params, states, xs, t):
    """∂h_t/∂C_t, with o_t held still."""
    o = cell.gates(params, states[t - 1], xs[t - 1])["o"]
    return o * (1 - jnp.tanh(states[t].c) ** 2)


@pytest.mark.slow
def test_two_states_of_one_network(found):
    results, arrays = stages_of([found, found])
    assert results["stages"] == ["before", "after"]
    assert set(results["verdicts"]) == {"before", "after"}
    assert_array_equal(arrays["before/layer_0/curve.hh"], arrays["after/layer_0/curve.hh"])
    other = found._replace(results=found.results | {"lag": 5})
    with pytest.raises(ValueError, match="expected two states of one network"):
        stages_of([found, other])


CELL = lstm_jax.rnn(3, 4)
FILES = {
    "enc_w_ih": np.ones((12, 3), "f"), "enc_w_hh": np.ones((12, 4), "f"),
    "dec_w_ih": np.ones((12, 4), "f"), "dec_w_hh": np.ones((12, 4), "f"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (FILES, {}, ValueError, r"Layer needed: .*'enc' \(gru, 3 to 4\), 'dec' \(gru, 4 to 4\)"),
        (FILES, {"layer": "end"}, ValueError, "got none. They are 'enc', 'dec'"),
        (FILES, {"layer": ["dec", "enc"]}, ValueError, "'enc' to take the 4 outputs of 'dec', got"),
        ({"a": np.ones(3)}, {}, ValueError, "expected a recurrent layer in the source, got none"),
        ("none.pt", {}, FileNotFoundError, "none.pt"),
        ("none.py:net", {}, FileNotFoundError, "none.py"),
        ("some.py", {}, ValueError, "expected some.py:NAME, the network in that file"),
        ((CELL,), {}, ValueError, "expected a network in Python as a tuple"),
        ((CELL, CELL.init(jax.random.key(0))), {"layer": "a"}, ValueError, "expected no layer"),
        ((lambda p, s, x: (s, s), 1.0), {}, ValueError, "Inputs needed"),
        (FILES, {"lag": 0}, ValueError, "lag"),
        (FILES, {"samples": -1}, ValueError, "samples"),
        (
            FILES,
            {"layer": "enc", "embedding": "emb"},
            ValueError,
            "expected embedding= as an array",
        ),
    ],
)
def test_what_cannot_be_looked_at(source, options, error, message):
    with pytest.raises(error, match=message):
        gradient_flow.inspect(source, **options)


@pytest.mark.slow
def test_numbered_layers_that_fit_are_a_stack(xs):
    params = NET.init(jax.random.key(0))
    parts = [
        lstm_jax.weights.to_pytorch(*pair) for pair in zip(NET.layers, params.layers, strict=True)
    ]
    arrays = {f"lstm_{n + 1}.{k}": v for n, part in enumerate(parts) for k, v in part.items()}
    network = network_of(arrays)
    assert network.net == NET and network.chosen == ("lstm_1", "lstm_2")
    assert_array_equal(network.params.layers[1].w_h, params.layers[1].w_h)
    # It is an assumption: layers beside each other may fit too.
    says = gradient_flow.inspect(arrays, xs, quick=True).results["says"]
    assert any(
        "Assumed: One layer takes what the one before gives: lstm_1, lstm_2" in s for s in says
    )
    # In the order of numbers, not of texts.
    later = {k.replace("lstm_1", "lstm_9").replace("lstm_2", "lstm_10"): arrays[k] for k in arrays}
    network = network_of(dict(sorted(later.items())))
    assert network.net == NET and network.chosen == ("lstm_9", "lstm_10")


def test_a_stack_with_zoneout_says_what_is_missing():
    net = lstm_jax.stack(lstm_jax.lstm(3, 4), zoneout=0.1)
    network = network_of((net, net.init(jax.random.key(0))))
    assert (
        "its layers are not measured one by one" in _says(network, Inputs(None, "", ""), True)[-1]
    )


def test_a_module_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import jax.numpy as jnp\n"
        "def step(params, state, x):\n    h = jnp.tanh(params * state + x)\n    return h, h\n"
        "def net():\n    return step, jnp.full(2, 0.5), jnp.zeros(2), jnp.ones((12, 2))\n"
        "broken = 1\n"
    )
    found = gradient_flow.inspect(f"{path}:net", lag=12)
    assert found.diagnosis.verdict == "vanishing" and found.results["source"] == f"{path}:net"
    for name, message in (("no", "got no such name"), ("broken", "as a tuple of a cell")):
        with pytest.raises(ValueError, match=message):
            gradient_flow.inspect(f"{path}:{name}")
    path.write_text("1 / 0\n")
    with pytest.raises(ValueError, match="got ZeroDivisionError"):
        gradient_flow.inspect(f"{path}:net")


def step(params, state, x):
    h = jnp.tanh(params * state + x)
    return h, h


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv", None])
def test_inputs_of_a_step(name, tmp_path):
    """From each kind of file, and of any axes."""
    xs = np.linspace(-1, 1, 10).reshape(5, 2).astype("f")
    given, options = xs.T, {"time_axis": 1}
    if name is not None:
        write = {"x.npy": np.save, "x.npz": np.savez}.get(name)
        given, options = tmp_path / name, {}
        write(given, xs) if write else np.savetxt(given, xs, delimiter=",")
    net = (step, jnp.full(2, 0.5), jnp.zeros(2))
    found = gradient_flow.inspect(net, given, **options)
    direct = gradient_flow.diagnose(*net, jnp.asarray(xs))
    assert str(found.diagnosis) == str(direct)
    (tmp_path / "x.txt").write_text("abc")
    with pytest.raises(ValueError, match="inputs of a plain step in .npy, .npz or .csv, got"):
        gradient_flow.inspect(net, tmp_path / "x.txt")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_another_dtype(dtype):
    """Norms are measured in single precision or double: a file in another is cast, and says so."""
    params = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), CELL.init(jax.random.key(0)))
    arrays = lstm_jax.weights.to_pytorch(CELL, jax.tree.map(lambda p: p.astype("f"), params))
    cast = {name: np.asarray(value).astype(jnp.dtype(dtype)) for name, value in arrays.items()}
    found = gradient_flow.inspect(cast, lag=3, samples=1, quick=True)
    assert f"The weights of {dtype} were cast to float32" in found.results["says"][-1]
    (own,) = found.network.params.layers
    np.testing.assert_allclose(own.w_x, np.asarray(params.w_x, "f"), rtol=1e-3)
    assert own.w_x.dtype == np.float32
    if dtype == "bfloat16":
        given = gradient_flow.inspect((CELL, params), lag=3, samples=1, quick=True)
        assert given.network.params.w_h.dtype == np.float32


@pytest.mark.slow
def test_a_state_that_overflows():
    """It is looked at before, as far as the verdict is."""
    cell = lstm_jax.rnn(3, 4, activation="relu")
    params = cell.init(jax.random.key(0))
    params = params._replace(w_h=1e18 * jnp.eye(4))
    found = gradient_flow.inspect((cell, params), lag=8, samples=2, quick=True)
    assert found.diagnosis.verdict == "exploding" and "overflows" in str(found)
    lag, curve = found.results["lag"], found.arrays["loaded/layer_0/curve.hh"]
    assert 0 < lag == found.diagnosis.lag < 8
    assert curve.shape == (2, len(found.results["lags"])) and found.results["lags"][-1] == lag
    assert found.arrays["loaded/layer_0/gate.slope"].shape == (lag, 4)
    at_once = params._replace(w_x=jnp.full((3, 4), 3e38), b=jnp.full(4, 3e38))
    found = gradient_flow.inspect((cell, at_once), np.ones((3, 3), "f"), quick=True)
    assert found.diagnosis.verdict == "exploding" and found.arrays == {}


def test_parameters_that_are_none():
    with pytest.raises(TypeError, match="expected rnn_tanh params"):
        gradient_flow.inspect((CELL, None), lag=3)


@pytest.mark.slow
def test_the_command(file, found, xs, tmp_path, capsys):
    np.save(tmp_path / "xs.npy", xs)
    words = [str(file), "--input", str(tmp_path / "xs.npy"), "--quick"]
    out, verdict = tmp_path / "run", found.diagnosis.verdict
    code = main(["inspect", *words, "--out", str(out), "--fail-on", f"{verdict},dead"])
    printed = capsys.readouterr()
    assert code == 3 and printed.err.startswith("This takes some")
    told = printed.out.splitlines()[-1]
    if importlib.util.find_spec("plotly"):
        assert told == f"page:     {out / 'report.html'}" and (out / "report.html").exists()
    else:
        assert told == "page:     none without plotly: pip install 'lstm-jax[report]'"
    assert not (out / ".unfinished").exists()
    assert all(len(line) <= 80 for line in printed.out.splitlines() if str(tmp_path) not in line)
    assert f"Verdict: {verdict}, for a lag of 16 steps" in printed.out
    results = json.loads((out / "results.json").read_text())
    assert results["command"][:3] == ["gradient-flow", "inspect", str(file)]
    with np.load(out / "arrays.npz") as arrays:
        assert arrays["loaded/layer_0/curve.hh"].shape == (2, len(results["lags"]))
    assert main(["inspect", *words, "--out", str(out)]) == 2
    assert "Occupied folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.pt"], "error: Unreadable file: expected a file or folder, got none.pt"),
        (["{file}", "--fail-on", "sick"], "expected --fail-on from vanishing, exploding"),
        (["{file}", "--layer", "x"], "expected a recurrent layer named 'x'"),
        (["{file}", "--input", "none.npy"], "got none.npy (No such file"),
        (["{file}", "--embedding", "x"], "expected --embedding as an array of the source"),
    ],
)
def test_the_command_refuses_in_a_sentence_and_leaves_nothing(
    file, words, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", *[word.format(file=file) for word in words]]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") <= 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow
def test_two_networks_are_not_compared(found, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    looks = iter([found, found._replace(results=found.results | {"lag": 5})])
    monkeypatch.setattr(inspect_command, "_look", lambda config, model: next(looks))
    (tmp_path / "a.pt").touch()
    # A file that is missing is said before anything is measured.
    assert main(["inspect", "a.pt", "--compare", "b.pt"]) == 2
    assert "got b.pt (No such file" in capsys.readouterr().err
    (tmp_path / "b.pt").touch()
    assert main(["inspect", "a.pt", "--compare", "b.pt"]) == 2
    error = capsys.readouterr().err
    assert "error: Network mismatch: expected two states of one network" in error
    assert not list(tmp_path.glob("runs/*"))
