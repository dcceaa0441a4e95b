"""The derivation page names its code: every name is there, and what the page claims holds in numbers."""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from lstm_jax import LSTMParams, LSTMState

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = CHECKOUT / "docs" / "derivation.md"
if not (PAGE.is_file() and (CHECKOUT / "src").is_dir()):
    pytest.skip("needs a checkout", allow_module_level=True)

TEXT = PAGE.read_text(encoding="utf-8")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
MODULE = re.compile(r"^(?:src|analysis)/((?:lstm_jax|gradient_flow)/[\w/]+)\.py$")
DOTTED = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")


def sections():
    """``(title, inline code, files named)`` of every section."""
    for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        names = re.findall(r"`([^`\n]+)`", FENCE.sub("", part))
        files = [name for name in names if MODULE.match(name)]
        yield part.splitlines()[0], names, files


def load(path):
    return importlib.import_module(MODULE.match(path)[1].replace("/", "."))


def resolve(owner, names):
    for name in names:
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True


def squeezed(text):
    return re.sub(r"\s+", " ", text)


def is_named(name, files):
    """Whether a piece of inline code is a path, a name of a module, or a text of the section's files."""
    if (CHECKOUT / name).exists():
        return True
    stem, *rest = name.split(".")
    for path in files:
        if DOTTED.match(name) and stem == Path(path).stem:
            return resolve(load(path), rest)
    if DOTTED.match(name) and any(resolve(load(path), [stem, *rest]) for path in files):
        return True
    return any(
        squeezed(name) in squeezed((CHECKOUT / path).read_text(encoding="utf-8")) for path in files
    )


SECTIONS = list(sections())


@pytest.mark.parametrize(
    ("title", "names", "files"), SECTIONS, ids=[section[0] for section in SECTIONS]
)
def test_every_name_is_in_the_files_that_the_section_lists(title, names, files):
    assert files, f"section {title!r} lists no files"
    missing = [name for name in names if not is_named(name, files)]
    assert not missing, f"section {title!r} names what the code has not: {missing}"


def test_a_wrong_name_would_be_noticed():
    files = ["src/lstm_jax/cells/lstm.py", "src/lstm_jax/gradients/bptt.py"]
    assert is_named("lstm.backward_step", files)
    assert is_named("Local.c_i", files)
    assert is_named("d_c * local.c_i", files)
    for wrong in ("lstm.backward_stp", "Local.c_q", "d_c * local.c_q", "src/lstm_jax/no.py"):
        assert not is_named(wrong, files)


def test_each_numbered_line_names_code():
    lines = re.findall(r"^\| (\d+\.\d+) \|(.*)$", TEXT, flags=re.MULTILINE)
    numbers = [tuple(map(int, number.split("."))) for number, _ in lines]
    assert len(numbers) > 40
    assert numbers == sorted(set(numbers))
    assert [number for number, rest in lines if "`" not in rest] == []


@pytest.fixture
def problem(x64):
    """An LSTM in random numbers and its residuals over three steps."""
    rng = np.random.default_rng(3)
    cell = lstm_jax.lstm(3, 4)
    params = LSTMParams(*(jnp.asarray(rng.normal(size=s)) for s in ((3, 16), (4, 16), (16,))))
    state = LSTMState(*(jnp.asarray(rng.normal(size=4)) for _ in range(2)))
    return cell, params, state, jnp.asarray(rng.normal(size=(3, 3))), rng


def test_backward_step_is_the_transpose_of_tangent_step(problem):
    cell, params, state, xs, rng = problem
    _, residuals = cell.rule.forward_step(params, state, xs[0])
    local = cell.rule.local_derivatives(residuals)
    state_dot, d_state = (
        LSTMState(*(jnp.asarray(rng.normal(size=4)) for _ in range(2))) for _ in range(2)
    )
    z_dot = jnp.asarray(rng.normal(size=16))
    out = cell.rule.tangent_step(params, local, state_dot, z_dot)
    d_prev, d_z = cell.rule.backward_step(params, local, d_state)
    left = sum(jnp.vdot(a, b) for a, b in zip(d_state, out, strict=True))
    right = sum(jnp.vdot(a, b) for a, b in zip(d_prev, state_dot, strict=True))
    np.testing.assert_allclose(left, right + jnp.vdot(d_z, z_dot), rtol=1e-12)


def test_backward_step_of_unit_rows_gives_the_rows_of_the_step_jacobian(problem):
    cell, params, state, xs, _ = problem
    _, residuals = cell.rule.forward_step(params, state, xs[0])
    local = cell.rule.local_derivatives(residuals)
    rows = np.split(np.eye(8), 2, axis=1)
    d_state, _ = jax.vmap(lambda d: cell.rule.backward_step(params, local, d))(
        LSTMState(*map(jnp.asarray, rows))
    )
    np.testing.assert_allclose(
        np.concatenate(d_state, axis=1), dense(cell.step_jacobian(params, state, xs[0])), atol=1e-14
    )


def dense(jacobian):
    """A nested step Jacobian as one matrix [2H, 2H]."""
    blocks = [[jacobian.h.h, np.diag(jacobian.h.c)], [jacobian.c.h, np.diag(jacobian.c.c)]]
    return np.block([[np.asarray(block) for block in row] for row in blocks])


@pytest.mark.parametrize("w_o", [1.0, 0.0])
def test_the_product_with_o_held_is_wrong_from_lag_2_on(problem, w_o):
    """Section 8's first claim, with its exception: no recurrent weights into the output gate."""
    cell, params, state, xs, _ = problem
    params = params._replace(w_h=params.w_h.at[:, 12:].multiply(w_o))
    state, _ = cell.step(params, state, xs[0])
    start_gates = cell.gates(params, LSTMState(*problem[2]), xs[0])

    def memory(c, lag):
        # h follows C with the gate o held, as in the claim.
        moved = LSTMState(start_gates["o"] * jnp.tanh(c), c)
        for x in xs[1 : 1 + lag]:
            moved, _ = cell.step(params, moved, x)
        return moved.c

    product, o, errors = np.eye(4), start_gates["o"], []
    at = state
    for lag in (1, 2):
        jacobian = cell.step_jacobian(params, at, xs[lag])
        follows = np.asarray(o * (1 - jnp.tanh(at.c) ** 2))
        product = (np.diag(jacobian.c.c) + np.asarray(jacobian.c.h) * follows) @ product
        o = cell.gates(params, at, xs[lag])["o"]
        at, _ = cell.step(params, at, xs[lag])
        truth = np.asarray(jax.jacrev(memory)(state.c, lag))
        errors.append(np.max(np.abs(product - truth)) / np.max(np.abs(truth)))
    assert errors[0] < 1e-12
    assert (errors[1] > 1e-3) if w_o else (errors[1] < 1e-12)
