"""Run one function on one platform, and another that computes the same elsewhere.

    on_platform(f, g, *operands) = f(*operands) = g(*operands)            the same numbers, to rounding

    compiled     f in a program for f's platform alone; g for any other platform, and for export
    jvp          that of f, on every platform: a part of it that needs f's platform must use on_platform too
    vmap         of g, because f could only run one by one; of a derivative, the derivative's own rule

`jax.lax.platform_dependent` with `jax.custom_batching.custom_vmap` comes near to this, but the first keeps f
in a program for several platforms, and the second has no reverse mode.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lstm_jax.array_types import PyTree, shapes_of
from lstm_jax.jax_extensions.matmul_precision import at_precision
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes

Flat = Callable[..., tuple[Any, ...]]
"""A function from the leaves of pytrees to the leaves of one."""

platform_switch_p = Primitive("platform_switch")
platform_switch_p.multiple_results = True


def on_platform(
    function: Callable[..., PyTree],
    elsewhere: Callable[..., PyTree],
    *operands: PyTree,
    platform: str,
) -> PyTree:
    """Apply ``function`` on its platform, ``elsewhere`` on any other and under `vmap`.

    Call it under `jax.jit`. Outside of `jit` it applies ``elsewhere``, and its derivative is ``function``'s.

    Args:
        function: of ``operands``.
        elsewhere: the same to rounding, of the same shapes.
        operands: pytrees of arrays.
        platform: that of ``function``, by JAX's name for it in lowering: ``"cuda"``.

    Returns:
        The result, the same of both functions.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from functools import partial
        >>> from lstm_jax.jax_extensions.platform_switch import on_platform
        >>> f, g = (lambda x: jnp.sin(x)), (lambda x: jnp.cos(x - jnp.pi / 2))
        >>> either = jax.jit(partial(on_platform, f, g, platform="cuda"))
        >>> bool(jnp.allclose(either(0.5), jnp.sin(0.5)))
        True
    """
    # The results of both must vary over the same mesh axes: those of all operands.
    axes = varying_axes(operands)
    operands = vary_over(axes, operands)
    leaves, tree = jax.tree.flatten(operands)
    out_tree = jax.tree.structure(shapes_of(function, *operands))

    def flat(f: Callable[..., PyTree]) -> Flat:
        def of_leaves(*leaves: Any) -> tuple[Any, ...]:
            out = f(*jax.tree.unflatten(tree, leaves))
            return tuple(vary_over(varying_axes(leaves), jax.tree.leaves(out)))

        return at_precision(of_leaves)

    out = platform_switch_p.bind(
        *leaves, function=flat(function), elsewhere=flat(elsewhere), platform=platform
    )
    return jax.tree.unflatten(out_tree, out)


@platform_switch_p.def_impl
def _apply(*operands: Any, function: Flat, elsewhere: Flat, platform: str) -> list[Any]:
    return list(elsewhere(*operands))


@platform_switch_p.def_abstract_eval
def _abstract(*avals: Any, function: Flat, elsewhere: Flat, platform: str) -> list[ShapedArray]:
    return list(jax.make_jaxpr(function)(*avals).out_avals)


def _lower(
    context: mlir.LoweringRuleContext,
    *operands: Any,
    function: Flat,
    elsewhere: Flat,
    platform: str,
) -> Any:
    module = context.module_context
    on_it = tuple(module.platforms) == (platform,) and not module.lowering_parameters.for_export
    chosen = function if on_it else elsewhere
    return mlir.lower_fun(chosen, multiple_results=True)(context, *operands)


mlir.register_lowering(platform_switch_p, _lower)


def _jvp(
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    function: Flat,
    elsewhere: Flat,
    platform: str,
) -> tuple[Any, Any]:
    return jax.jvp(function, tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


ad.primitive_jvps[platform_switch_p] = _jvp


def _batch(
    operands: Sequence[Any],
    axes: Sequence[int | None],
    *,
    function: Flat,
    elsewhere: Flat,
    platform: str,
) -> tuple[tuple[Any, ...], list[int]]:
    out = jax.vmap(elsewhere, in_axes=tuple(axes))(*operands)
    return out, [0] * len(out)


batching.primitive_batchers[platform_switch_p] = _batch
