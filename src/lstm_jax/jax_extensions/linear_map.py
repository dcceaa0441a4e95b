r"""A linear function with a hand-written transpose, for every JAX transformation.

    y = T(r) u          u, y: linear inputs and outputs; r: residuals, on which T depends freely

With `jax.custom_vjp` one writes the transpose but loses forward mode; with `jax.custom_jvp` forward mode
stays but JAX derives the transpose. `linear_map` has both: one primitive with ``forward`` (u ↦ T u) and
``transpose`` (v ↦ Tᵀ v), and three rules:

    jvp         d(T(r) u) = T(r) du + (∂T/∂r · dr) u      the second term by autodiff of ``forward``
    transpose   the same primitive with the two functions exchanged
    batching    `jax.vmap` of both functions, with every u and y batched

A custom JVP rule that ends in `linear_map` therefore supports `jvp`, `jacfwd`, `grad`, `hessian`,
`vmap` and their compositions, and `grad` runs the hand-written transpose.

`jax.custom_derivatives.linear_call` has the same purpose but neither a batching rule nor a derivative
with respect to its residuals.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lstm_jax.array_types import PyTree, shapes_of
from lstm_jax.jax_extensions.matmul_precision import at_precision
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes

FlatMap = Callable[[tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...]]
"""A function of the leaves of residuals and inputs; None stands for an input that is zero."""
Types = tuple[Any, ...] | None
"""The types of what `FlatMap` returns, where they are known."""

linear_map_p = Primitive("linear_map")
linear_map_p.multiple_results = True


def linear_map(
    forward: Callable[[PyTree, PyTree], PyTree],
    transpose: Callable[[PyTree, PyTree], PyTree],
    residuals: PyTree,
    inputs: PyTree,
    *,
    none_for_zero: bool = False,
    outputs: PyTree = None,
) -> PyTree:
    """Apply ``forward(residuals, inputs)``, which `jax.grad` will transpose with ``transpose``.

    Args:
        forward: ``(residuals, inputs) -> outputs``, linear in ``inputs``.
        transpose: ``(residuals, outputs) -> inputs``, the transpose of ``forward`` in its second
            argument: for all u and v, ⟨v, forward(r, u)⟩ = ⟨transpose(r, v), u⟩.
        residuals: pytree of arrays on which the map may depend nonlinearly.
        inputs: pytree of arrays in which the map is linear.
        none_for_zero: whether ``transpose`` gets None for the cotangent of an unused output, instead of
            zeros in its shape.
        outputs: arrays of the shapes and dtypes that ``forward`` returns. With them it is traced only where
            it runs, which saves most of the time to trace a gradient.

    Returns:
        The pytree that ``forward`` returns.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from lstm_jax.jax_extensions.linear_map import linear_map
        >>> scale = lambda r, u: r * u
        >>> f = lambda u: linear_map(scale, scale, jnp.float32(3.0), u)
        >>> print(jax.grad(f)(2.0), jax.jvp(f, (2.0,), (1.0,))[1])
        3.0 3.0
    """
    # The transpose returns cotangents of the type of `inputs`, so all must vary over the same mesh axes.
    # Where an input was the same on all devices, the transpose of this cast is the sum over the devices.
    axes = varying_axes(residuals, inputs)
    residuals, inputs = vary_over(axes, residuals), vary_over(axes, inputs)
    flat_residuals, residuals_tree = jax.tree.flatten(residuals)
    flat_inputs, inputs_tree = jax.tree.flatten(inputs)
    shapes = shapes_of(forward, residuals, inputs) if outputs is None else outputs
    flat_shapes, outputs_tree = jax.tree.flatten(shapes)

    def flatten(
        function: Callable[..., PyTree], in_tree: Any, like: Sequence[Any], keep_none: bool
    ) -> FlatMap:
        def filled(u: Any, like: Any) -> Any:
            if u is not None or keep_none:
                return u
            return vary_over(axes, jnp.zeros(like.shape, like.dtype))

        def flat(r: tuple[Any, ...], u: tuple[Any, ...]) -> tuple[Any, ...]:
            u = tuple(map(filled, u, like))
            out = function(jax.tree.unflatten(residuals_tree, r), jax.tree.unflatten(in_tree, u))
            return tuple(jax.tree.leaves(out))

        return at_precision(flat)

    input_shapes = [jax.typeof(u) for u in flat_inputs]
    known = None if outputs is None else tuple(jax.typeof(y) for y in vary_over(axes, flat_shapes))
    # A function that lives on in a jaxpr must not hold the outputs, which are tracers.
    flat_shapes = [jax.ShapeDtypeStruct(y.shape, y.dtype) for y in flat_shapes]
    flat_outputs = linear_map_p.bind(
        *flat_residuals,
        *flat_inputs,
        forward=flatten(forward, inputs_tree, input_shapes, False),
        transpose=flatten(transpose, outputs_tree, flat_shapes, none_for_zero),
        n_residuals=len(flat_residuals),
        types=known,
    )
    return jax.tree.unflatten(outputs_tree, flat_outputs)


def _split(operands: Sequence[Any], n_residuals: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return tuple(operands[:n_residuals]), tuple(operands[n_residuals:])


@linear_map_p.def_impl
def _apply(
    *operands: Any, forward: FlatMap, transpose: FlatMap, n_residuals: int, types: Types
) -> list[Any]:
    del transpose, types
    return list(forward(*_split(operands, n_residuals)))


@linear_map_p.def_abstract_eval
def _abstract(
    *avals: Any, forward: FlatMap, transpose: FlatMap, n_residuals: int, types: Types
) -> list[ShapedArray]:
    del transpose
    if types is not None:
        return list(types)
    closed = jax.make_jaxpr(lambda *flat: forward(*_split(flat, n_residuals)))(*avals)
    return list(closed.out_avals)


mlir.register_lowering(linear_map_p, mlir.lower_fun(_apply, multiple_results=True))


def _jvp(
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    forward: FlatMap,
    transpose: FlatMap,
    n_residuals: int,
    types: Types,
) -> tuple[list[Any], list[Any]]:
    params: dict[str, Any] = {
        "forward": forward,
        "transpose": transpose,
        "n_residuals": n_residuals,
        "types": types,
    }
    residuals, inputs = _split(primals, n_residuals)
    residual_dots, input_dots = _split(tangents, n_residuals)
    outputs = linear_map_p.bind(*primals, **params)
    terms = []
    if not all(isinstance(dot, ad.Zero) for dot in input_dots):
        terms.append(
            linear_map_p.bind(*residuals, *map(ad.instantiate_zeros, input_dots), **params)
        )
    moving = [n for n, dot in enumerate(residual_dots) if not isinstance(dot, ad.Zero)]
    if moving:

        def of_moving(*moved: Any) -> tuple[Any, ...]:
            changed = dict(zip(moving, moved, strict=True))
            return forward(tuple(changed.get(n, r) for n, r in enumerate(residuals)), inputs)

        _, dots = jax.jvp(
            of_moving,
            [residuals[n] for n in moving],
            [residual_dots[n] for n in moving],
        )
        terms.append(dots)
    if not terms:
        return outputs, [ad.Zero(jax.typeof(out)) for out in outputs]
    return outputs, [sum(parts[1:], start=parts[0]) for parts in zip(*terms, strict=True)]


ad.primitive_jvps[linear_map_p] = _jvp


def _type(value: Any) -> Any:
    """The type of a value, or of a cotangent that is wanted."""
    return value.aval if ad.is_undefined_primal(value) else jax.typeof(value)


def _transpose(
    cotangents: Sequence[Any],
    *operands: Any,
    forward: FlatMap,
    transpose: FlatMap,
    n_residuals: int,
    types: Types,
) -> list[Any]:
    residuals, inputs = _split(operands, n_residuals)
    if any(ad.is_undefined_primal(r) for r in residuals):
        raise NotImplementedError("linear_map cannot be transposed in its residuals.")
    # Zeros in the shape of a long sequence would cost as much memory as the sequence.
    present = [n for n, d in enumerate(cotangents) if not isinstance(d, ad.Zero)]
    # A function that lives on in a jaxpr must not hold the cotangents, which are tracers.
    count = len(cotangents)

    def of_present(r: tuple[Any, ...], v: tuple[Any, ...]) -> tuple[Any, ...]:
        known = dict(zip(present, v, strict=True))
        return transpose(r, tuple(known.get(n) for n in range(count)))

    def to_present(r: tuple[Any, ...], u: tuple[Any, ...]) -> tuple[Any, ...]:
        outputs = forward(r, u)
        return tuple(outputs[n] for n in present)

    d_inputs = linear_map_p.bind(
        *residuals,
        *(cotangents[n] for n in present),
        forward=of_present,
        transpose=to_present,
        n_residuals=n_residuals,
        types=None if types is None else tuple(map(_type, inputs)),
    )
    # An input that is a known constant takes no cotangent.
    d_inputs = [
        d if ad.is_undefined_primal(u) else None for d, u in zip(d_inputs, inputs, strict=True)
    ]
    return [None] * n_residuals + d_inputs


ad.primitive_transposes[linear_map_p] = _transpose


def _batch(
    operands: Sequence[Any],
    axes: Sequence[int | None],
    *,
    forward: FlatMap,
    transpose: FlatMap,
    n_residuals: int,
    types: Types,
) -> tuple[list[Any], list[int]]:
    size = next(
        operand.shape[axis]
        for operand, axis in zip(operands, axes, strict=True)
        if axis is not None
    )
    residuals, inputs = _split(operands, n_residuals)
    residual_axes, input_axes = _split(axes, n_residuals)
    # With every linear input batched, the transpose has no sum over the batch: that sum is the transpose of
    # this broadcast, which JAX makes.
    inputs = tuple(
        jnp.broadcast_to(u, (size, *u.shape)) if axis is None else jnp.moveaxis(u, axis, 0)
        for u, axis in zip(inputs, input_axes, strict=True)
    )
    in_axes = (residual_axes, 0)
    outputs = linear_map_p.bind(
        *residuals,
        *inputs,
        forward=jax.vmap(forward, in_axes=in_axes),
        transpose=jax.vmap(transpose, in_axes=in_axes),
        n_residuals=n_residuals,
        types=None,
    )
    return outputs, [0] * len(outputs)


batching.primitive_batchers[linear_map_p] = _batch
