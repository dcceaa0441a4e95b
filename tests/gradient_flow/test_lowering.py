"""The measurements lower for every platform, without a device of it."""

import jax
import jax.numpy as jnp
import pytest
from comparison import random_problem
from jax import export
from slow_cases import slow_but

import gradient_flow
from gradient_flow import all_pairs_norms, autodiff_norms, jacobian_norms

PLATFORMS = ("cuda", "tpu")  # on the third, every other test runs

SMALLEST = dict(norms=["smallest"], blocks=["total_c", "chain_c"])
KEY = jax.random.key(0)

# By cell, because a program differs with it, or with what it asks of the linear algebra.
MEASUREMENTS = {
    "jacobian_norms lstm": ("lstm", lambda *problem: jacobian_norms(*problem)),
    "jacobian_norms gru": ("gru", lambda *problem: jacobian_norms(*problem)),
    "jacobian_norms rnn": ("rnn_tanh", lambda *problem: jacobian_norms(*problem)),
    "smallest": ("lstm", lambda *problem: jacobian_norms(*problem, **SMALLEST).smallest),
    "all_pairs_norms": ("gru", lambda *problem: all_pairs_norms(*problem).spectral),
    "autodiff_norms": ("gru", lambda *problem: autodiff_norms(*problem)),
    "detour_norms": ("lstm", lambda *problem: gradient_flow.detour_norms(*problem, most=2)),
    "gate_path_norms": ("lstm", lambda *problem: gradient_flow.gate_path_norms(*problem).spectral),
    "credit": ("lstm", lambda *problem: gradient_flow.credit(*problem, lambda hs: hs[-1].sum())),
    "step_gain": ("lstm", lambda *problem: gradient_flow.step_gain(*problem)),
    "gate_time_constants": ("lstm", lambda *problem: gradient_flow.gate_time_constants(*problem)),
    "probe_norms": (
        "lstm",
        lambda *problem: gradient_flow.probe_norms(
            *problem, KEY, probes=gradient_flow.Probes(number=4, spectral_lags=[2])
        ),
    ),
    "lyapunov_spectrum": ("gru", lambda *problem: gradient_flow.lyapunov_spectrum(*problem)),
    "singular_spectrum": (
        "lstm",
        lambda *problem: gradient_flow.singular_spectrum(*problem, cotangent=problem[2]),
    ),
    "parallel_transitions": ("gru", lambda *problem: gradient_flow.parallel_transitions(*problem)),
    "parallel_cotangents": (
        "lstm",
        lambda *problem: gradient_flow.parallel_cotangents(
            *problem, jax.tree.map(lambda s: jnp.ones((5, *s.shape)), problem[2])
        ),
    ),
    "parallel_states": ("gru", lambda *problem: gradient_flow.parallel_states(*problem)),
}


def measurement(name):
    """A measurement of a small problem as a function of arrays, and what it is called with."""
    cell_name, measure = MEASUREMENTS[name]
    problem = random_problem(cell_name, 5, 2)

    def measured(params, state0, xs):
        return jax.tree.leaves(measure(problem.cell, params, state0, xs))

    return measured, (problem.params, problem.state0, problem.xs)


@pytest.mark.parametrize("name", slow_but(MEASUREMENTS, "jacobian_norms gru", "lyapunov_spectrum"))
def test_a_measurement_lowers(name):
    measured, arguments = measurement(name)
    traced = jax.jit(measured)  # once for both
    for platform in PLATFORMS:
        exported = export.export(traced, platforms=[platform])(*arguments)
        assert exported.platforms == (platform,)
        assert exported.mlir_module_serialized
