"""What a cell says of itself, so that nobody has to read it from the cell's name."""

import jax
import jax.numpy as jnp
import pytest

import lstm_jax

PARTS = {
    "lstm": {},
    "lstm_peephole": {"peepholes": True},
    "lstm_norm": {"layer_norm": True},
    "lstm_projected": {"projection_size": 2},
    "lstm_coupled": {"coupled_gates": True},
    "lstm_peephole_coupled_norm_projected": {
        "peepholes": True,
        "coupled_gates": True,
        "layer_norm": True,
        "projection_size": 2,
    },
}
EXPECTED = [
    *(
        (
            lstm_jax.lstm(3, 5, **parts),
            name,
            "lstm",
            "fgo" if "coupled" in name else "ifgo",
            "f",
            "tanh",
        )
        for name, parts in PARTS.items()
    ),
    (lstm_jax.gru(3, 5), "gru", "gru", "run", "u", "tanh"),
    (lstm_jax.gru(3, 5, reset_after=False), "gru_reset_before", "gru", "run", "u", "tanh"),
    *(
        (lstm_jax.rnn(3, 5, activation=phi), f"rnn_{phi}", "rnn", "h", None, phi)
        for phi in ("tanh", "relu", "identity")
    ),
]


@pytest.mark.parametrize(
    ("cell", "name", "kind", "gates", "memory_gate", "activation"),
    EXPECTED,
    ids=[expected[1] for expected in EXPECTED],
)
def test_a_cell_says_what_it_is(cell, name, kind, gates, memory_gate, activation):
    assert (cell.name, cell.kind, cell.activation) == (name, kind, activation)
    assert (cell.gate_names, cell.memory_gate) == (tuple(gates), memory_gate)
    # One block of columns of w_h for each gate.
    params = jax.eval_shape(cell.init, jax.random.key(0))
    assert params.w_h.shape == (cell.output_size, 5 * len(cell.gate_names))
    found = jax.eval_shape(cell.gates, params, cell.initial_state(), jnp.ones(3))
    if kind != "rnn":
        assert set(cell.gate_names) <= set(found)


@pytest.mark.parametrize("cell", [one for one, *_ in EXPECTED if one.memory_gate], ids=str)
def test_the_memory_gate_is_the_one_that_keeps_the_memory(cell):
    """Open, the memory stays as it is, whatever comes in; the columns of the bias are named by the gates."""
    params = cell.init(jax.random.key(0))
    if getattr(params, "norm_x", None) is not None:
        params = params._replace(norm_x=0 * params.norm_x, norm_h=0 * params.norm_h)
    open_at = cell.gate_names.index(cell.memory_gate)
    b = params.b.reshape(-1, 5).at[open_at].set(100.0)
    if "i" in cell.gate_names:
        b = b.at[cell.gate_names.index("i")].set(-100.0)
    state = jax.tree.map(lambda leaf: leaf + 0.3, cell.initial_state())
    after, _ = cell.step(params._replace(b=b.reshape(-1)), state, jnp.ones(3))
    memory = after.c if cell.kind == "lstm" else after.h
    assert jnp.abs(memory - 0.3).max() < 1e-6
