"""A weight laid out for a loop gives the plain products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from lstm_jax.jax_extensions import weight_with_transpose
from lstm_jax.jax_extensions.weight_with_transpose import WeightWithTranspose, with_transposes


@pytest.fixture(params=[0, 2**40], ids=["from the left", "from the right"])
def weight(request, x64, monkeypatch):
    monkeypatch.setattr(weight_with_transpose, "LARGE", request.param)
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5)))
    return WeightWithTranspose(matrix, matrix.T)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (8, 3), (2, 8, 3)], ids=str)
def test_products(weight, shape):
    rng = np.random.default_rng(1)
    rows, back = rng.standard_normal(shape), rng.standard_normal((*shape[:-1], 5))
    matrix = np.asarray(weight.matrix)
    np.testing.assert_allclose(jnp.asarray(rows) @ weight, rows @ matrix, rtol=1e-13)
    np.testing.assert_allclose(jnp.asarray(back) @ weight.T, back @ matrix.T, rtol=1e-13)
    assert weight.T.T.matrix is weight.matrix


def test_is_open_to_every_transformation(weight):
    rng = np.random.default_rng(2)
    rows = jnp.asarray(rng.standard_normal((8, 3)))

    def through(rows, matrix, wrap):
        used = WeightWithTranspose(matrix, matrix.T) if wrap else matrix
        _, out = lax.scan(lambda c, x: (c, jnp.sin(x @ used)), None, rows[None])
        return jnp.sum(out**2)

    for way in (jax.grad, jax.jacfwd, jax.hessian):
        got, expected = (
            jax.jit(way(through, argnums=1), static_argnums=2)(rows, weight.matrix, wrap)
            for wrap in (True, False)
        )
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    many = jnp.stack([rows, 2 * rows])
    got, expected = (
        jax.vmap(lambda r, wrap=wrap: through(r, weight.matrix, wrap))(many)
        for wrap in (True, False)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_lowers_for_every_platform(weight):
    rows = jnp.ones((8, 3))
    lowered = export.export(jax.jit(lambda r: r @ weight), platforms=("cpu", "cuda", "tpu"))(rows)
    np.testing.assert_allclose(lowered.call(rows), rows @ weight.matrix, rtol=1e-13)


def test_short_loops_keep_the_plain_parameters():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    assert with_transposes(params, weight_with_transpose.FEWEST_STEPS - 1) is params
    wrapped = with_transposes(params, weight_with_transpose.FEWEST_STEPS)
    assert isinstance(wrapped["w"], WeightWithTranspose) and wrapped["b"] is params["b"]
