"""The measurements lower for every platform, without a device of it."""

import jax
import pytest
from comparison import random_problem
from jax import export

from gradient_flow import all_pairs_norms, autodiff_norms, jacobian_norms

PLATFORMS = ("cpu", "cuda", "tpu")


def lower(function, problem, platform):
    arguments = (problem.params, problem.state0, problem.xs)
    exported = export.export(jax.jit(function), platforms=[platform])(*arguments)
    assert exported.platforms == (platform,)
    assert exported.mlir_module_serialized


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh"])
def test_jacobian_norms(name, platform):
    problem = random_problem(name, 5)

    def curves(params, state0, xs):
        flow = jacobian_norms(problem.cell, params, state0, xs)
        return flow.spectral, flow.frobenius

    lower(curves, problem, platform)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_smallest_singular_values(platform):
    problem = random_problem("lstm", 5)

    def curves(params, state0, xs):
        options = dict(norms=["smallest"], blocks=["total_c", "chain_c"])
        return jacobian_norms(problem.cell, params, state0, xs, **options).smallest

    lower(curves, problem, platform)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_all_pairs_norms(platform):
    problem = random_problem("gru", 5, 2)
    lower(lambda p, s, x: all_pairs_norms(problem.cell, p, s, x).spectral, problem, platform)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_autodiff_norms(platform):
    problem = random_problem("gru", 5)
    lower(lambda p, s, x: autodiff_norms(problem.cell, p, s, x), problem, platform)
