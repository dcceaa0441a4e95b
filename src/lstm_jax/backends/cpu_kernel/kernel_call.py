"""The calls of the CPU kernel as primitives of JAX: forward, and every gradient.

Where the program that they are part of is compiled for one CPU, they are one custom call each. Elsewhere (an
export, another platform, a program that the compiler spreads over devices) they are the loop, which needs no
residuals; ``made`` says whether there are any. Without them the kernel's backward pass makes its own.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from lstm_jax.array_types import Array
from lstm_jax.backends.cpu_kernel.arrays import (
    Cotangents,
    Found,
    Inputs,
    Kernel,
    backward_types,
    forward_types,
)
from lstm_jax.backends.cpu_kernel.by_loop import backward_by_loop, forward_by_loop
from lstm_jax.backends.cpu_kernel.library import status
from lstm_jax.backends.cpu_kernel.mapping import batch_backward, batch_forward
from lstm_jax.jax_extensions.mesh_axes import vary_over, varying_axes

forward_p = Primitive("lstm_jax_cpu_forward")
backward_p = Primitive("lstm_jax_cpu_backward")
forward_p.multiple_results = backward_p.multiple_results = True
forward_p.def_abstract_eval(forward_types)
backward_p.def_abstract_eval(backward_types)
batching.primitive_batchers[forward_p] = partial(batch_forward, forward_p)
batching.primitive_batchers[backward_p] = partial(batch_backward, backward_p)


def forward(kernel: Kernel, inputs: Inputs, keeps: bool) -> Found:
    """Run the network; with the residuals where ``keeps``."""
    return Found(*forward_p.bind(*inputs, kernel=kernel, keeps=keeps))


def backward(
    kernel: Kernel, inputs: Inputs, found: Found, d_hs: Array, d_h: Array, d_c: Array
) -> Cotangents:
    """Every gradient, from the cotangents of the outputs and of the final state."""
    operands = [*inputs, found.hs, found.kept, found.made, d_hs, d_h, d_c]
    axes = varying_axes(operands)
    return Cotangents(*backward_p.bind(*vary_over(axes, operands), kernel=kernel, groups=1))


def _runs_on_one_cpu(context: Any) -> bool:
    """Whether a program is for this process alone, and not spread over devices by the compiler."""
    module = context.module_context
    if module.lowering_parameters.for_export:
        return False
    axes = module.axis_context
    manual = getattr(axes, "manual_axes", None)
    if manual is not None:
        return set(axes.mesh.axis_names) == set(manual)
    return getattr(axes, "num_devices", 1) in (None, 1)


def _lowering(target: str, by_loop: Any, names: tuple[str, ...]) -> Any:
    loop = mlir.lower_fun(by_loop, multiple_results=True)

    def lower(context: Any, *operands: Any, kernel: Kernel, **static: Any) -> Any:
        if not _runs_on_one_cpu(context):
            return loop(context, *operands, kernel=kernel, **static)
        attributes = {name: np.int64(static[name]) for name in names}
        return jax.ffi.ffi_lowering(target)(
            context,
            *operands,
            cell=kernel.kind.name,
            networks=np.int64(kernel.networks),
            reverse=bool(kernel.settings.reverse),
            **attributes,
        )

    return loop, lower


def _register(primitive: Primitive, target: str, by_loop: Any, names: tuple[str, ...]) -> None:
    loop, kernel = _lowering(target, by_loop, names)
    mlir.register_lowering(primitive, loop)
    mlir.register_lowering(primitive, kernel, platform="cpu")

    @partial(jax.jit, static_argnames=("static",))
    def compiled(*operands: Any, static: Any) -> Any:
        return primitive.bind(*operands, **dict(static))

    @primitive.def_impl
    def apply(*operands: Any, **static: Any) -> Any:
        with jax.disable_jit(False):
            return compiled(*operands, static=tuple(static.items()))


_register(forward_p, "lstm_jax_forward", forward_by_loop, ())
_register(backward_p, "lstm_jax_backward", backward_by_loop, ("groups",))

# An executable that was stored finds the kernel wherever this file has been imported.
status()
