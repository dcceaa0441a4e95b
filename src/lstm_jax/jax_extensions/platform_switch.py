"""A function for one platform alone, and another that stands in for it elsewhere.

    with_stand_in(f, g, *operands) = f(*operands) = g(*operands)            the same numbers, to rounding

    compiled     f where the program is for f's platform and runs here; g for any other, and for export
    jvp          that of f, on every platform: what in it is for f's alone needs a stand-in of its own
    vmap         of g, for an f that could only run one by one; of a derivative, what the derivative holds

`jax.lax.platform_dependent` with `jax.custom_batching.custom_vmap` is nearly this, but the first keeps f in
a program for several platforms, and the second knows no reverse mode.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lstm_jax.array_types import PyTree
from lstm_jax.jax_extensions.matmul_precision import at_this_precision
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes

Flat = Callable[..., tuple[Any, ...]]
"""Of and to the leaves of pytrees."""

stand_in_p = Primitive("stand_in")
stand_in_p.multiple_results = True


def with_stand_in(
    function: Callable[..., PyTree],
    stand_in: Callable[..., PyTree],
    *operands: PyTree,
    platform: str,
) -> PyTree:
    """Apply ``function`` on its platform, ``stand_in`` on any other and under `vmap`.

    Call it under `jax.jit`: outside of it, it applies ``stand_in``, and its derivative is ``function``'s.

    Args:
        function: of ``operands``.
        stand_in: the same to rounding, of the same shapes.
        operands: pytrees of arrays.
        platform: that of ``function``, as JAX calls it where it lowers a program: ``"cuda"``.

    Returns:
        What both return.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from functools import partial
        >>> from lstm_jax.jax_extensions.platform_switch import with_stand_in
        >>> f, g = (lambda x: jnp.sin(x)), (lambda x: jnp.cos(x - jnp.pi / 2))
        >>> either = jax.jit(partial(with_stand_in, f, g, platform="cuda"))
        >>> bool(jnp.allclose(either(0.5), jnp.sin(0.5)))
        True
    """
    # Both are to return what varies over as many axes as the operands together.
    axes = varying_axes(operands)
    operands = vary_over(axes, operands)
    leaves, tree = jax.tree.flatten(operands)
    out_tree = jax.tree.structure(jax.eval_shape(function, *operands))

    def flat(f: Callable[..., PyTree]) -> Flat:
        def of_leaves(*leaves: Any) -> tuple[Any, ...]:
            out = f(*jax.tree.unflatten(tree, leaves))
            return tuple(vary_over(varying_axes(leaves), jax.tree.leaves(out)))

        return at_this_precision(of_leaves)

    out = stand_in_p.bind(
        *leaves, function=flat(function), stand_in=flat(stand_in), platform=platform
    )
    return jax.tree.unflatten(out_tree, out)


@stand_in_p.def_impl
def _apply(*operands: Any, function: Flat, stand_in: Flat, platform: str) -> list[Any]:
    return list(stand_in(*operands))


@stand_in_p.def_abstract_eval
def _abstract(*avals: Any, function: Flat, stand_in: Flat, platform: str) -> list[ShapedArray]:
    return list(jax.make_jaxpr(function)(*avals).out_avals)


def _lower(
    context: mlir.LoweringRuleContext,
    *operands: Any,
    function: Flat,
    stand_in: Flat,
    platform: str,
) -> Any:
    module = context.module_context
    here = tuple(module.platforms) == (platform,) and not module.lowering_parameters.for_export
    chosen = function if here else stand_in
    return mlir.lower_fun(chosen, multiple_results=True)(context, *operands)


mlir.register_lowering(stand_in_p, _lower)


def _jvp(
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    function: Flat,
    stand_in: Flat,
    platform: str,
) -> tuple[Any, Any]:
    return jax.jvp(function, tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


ad.primitive_jvps[stand_in_p] = _jvp


def _batch(
    operands: Sequence[Any],
    axes: Sequence[int | None],
    *,
    function: Flat,
    stand_in: Flat,
    platform: str,
) -> tuple[tuple[Any, ...], list[int]]:
    out = jax.vmap(stand_in, in_axes=tuple(axes))(*operands)
    return out, [0] * len(out)


batching.primitive_batchers[stand_in_p] = _batch
