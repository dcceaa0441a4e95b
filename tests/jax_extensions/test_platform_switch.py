"""Which of two functions runs; here they differ, so that one can tell."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from lstm_jax.jax_extensions.platform_switch import on_platform

XS = jnp.arange(1.0, 7.0, dtype=jnp.float32).reshape(2, 3)
N = jnp.array([2, 3], jnp.int32)


def scaled(factor, operands, n):
    """Of a pytree and of whole numbers; ``{"y": factor x² n, "z": 2 z}``."""
    x, z = operands
    return {"y": factor * x**2 * n[:, None].astype(x.dtype), "z": 2 * z}


def either(x, z=1.0, n=N, *, platform="cpu"):
    function, stand_in = partial(scaled, 10.0), partial(scaled, 1.0)
    return on_platform(function, stand_in, (x, jnp.float32(z)), n, platform=platform)


def y(x, **options):
    return either(x, **options)["y"]


Y = np.asarray(XS**2 * jnp.array([[2.0], [3.0]]))


@pytest.mark.parametrize(("platform", "factor"), [("cpu", 10), ("cuda", 1)])
def test_the_function_is_for_its_platform(platform, factor):
    out = jax.jit(partial(either, platform=platform))(XS)
    np.testing.assert_array_equal(out["y"], factor * Y)
    assert out["z"] == 2.0


def test_without_jit_the_other_stands_in():
    with jax.disable_jit():
        np.testing.assert_array_equal(either(XS)["y"], Y)


def test_derivatives_are_the_functions_own():
    x_dot = jnp.ones_like(XS)
    out, dot = jax.jit(lambda x: jax.jvp(y, (x,), (x_dot,)))(XS)
    np.testing.assert_allclose(out, 10 * Y)
    np.testing.assert_allclose(dot, 2 * 10 * Y / XS, rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda x, z: jnp.sum(y(x)) + either(x, z)["z"], (0, 1)))(XS, 3.0)
    np.testing.assert_allclose(gradient[0], 2 * 10 * Y / XS, rtol=1e-6)
    assert gradient[1] == 2.0


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_mapped_the_other_stands_in(axis):
    many = jnp.stack([XS, 2 * XS], axis)
    out = jax.jit(jax.vmap(y, in_axes=axis))(many)
    np.testing.assert_array_equal(out, np.stack([Y, 4 * Y]))
    whole = jax.jit(jax.vmap(either, in_axes=(None, None, 0)))(XS, 1.0, jnp.stack([N, 2 * N]))
    np.testing.assert_array_equal(whole["y"], np.stack([Y, 2 * Y]))
    np.testing.assert_array_equal(whole["z"], [2.0, 2.0])


def test_mapped_and_then_differentiated_it_is_the_others_derivative():
    many = jnp.stack([XS, 2 * XS])
    gradient = jax.jit(jax.grad(lambda many: jnp.sum(jax.vmap(y)(many))))(many)
    np.testing.assert_allclose(gradient, np.stack([2 * Y / XS, 4 * Y / XS]), rtol=1e-6)


def test_one_of_many_at_a_time_is_the_function():
    many = jnp.stack([XS, 2 * XS])
    out = jax.jit(lambda many: jax.lax.map(y, many))(many)
    np.testing.assert_array_equal(out, np.stack([10 * Y, 40 * Y]))


@pytest.mark.parametrize("platforms", [["cpu"], ["cpu", "cuda"]])
def test_exported_the_other_stands_in(platforms):
    """What runs elsewhere is to have no kernel of this machine."""
    exported = export.export(jax.jit(y), platforms=platforms)(XS)
    np.testing.assert_array_equal(exported.call(XS), Y)


def test_in_a_map_over_devices_its_results_vary_as_its_operands_do():
    mesh = jax.make_mesh((1,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))

    def summed(x, z, n):
        out = either(x, z, n)
        assert {jax.typeof(leaf).manual_axis_type.varying for leaf in out.values()} == {
            frozenset("b")
        }
        return jax.lax.psum(jnp.sum(out["y"]) + out["z"], "b")

    specs = (jax.P("b"), jax.P(), jax.P("b"))
    mapped = jax.jit(jax.shard_map(summed, mesh=mesh, in_specs=specs, out_specs=jax.P()))
    np.testing.assert_allclose(mapped(XS, 1.0, N), 10 * Y.sum() + 2, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(mapped)(XS, 1.0, N), 2 * 10 * Y / XS, rtol=1e-6)
