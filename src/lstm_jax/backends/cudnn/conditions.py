"""The networks and settings that NVIDIA's kernel cannot run, each with its reason."""

from typing import Any

import jax.numpy as jnp

from lstm_jax.backends.cudnn.kernel_call import PRECISIONS, Layers
from lstm_jax.cells.lstm import RULE, step
from lstm_jax.jax_extensions.matmul_precision import default_precision
from lstm_jax.time_loop.scan import platform_name
from lstm_jax.time_loop.step_masks import StepMasks


def refusal(layers: Layers, dtype: Any) -> str | None:
    """Why the kernel cannot run these layers: ``"expected …, got …"``; None if it can.

    It runs the standard LSTM in float32, every layer of the same size and in the same directions.
    """
    cells = [cell for layer in layers for cell in layer]
    for cell in cells:
        if cell.step is not step or cell.rule is not RULE:
            return f"expected the standard LSTM, got {cell}"
    sizes = sorted({cell.hidden_size for cell in cells})
    if len(sizes) > 1:
        return f"expected layers of one hidden size, got {', '.join(map(str, sizes))}"
    if len({len(layer) for layer in layers}) > 1:
        return "expected every layer in one direction or every layer in both, got some of each"
    if dtype != jnp.float32:
        return f"expected float32, got {jnp.dtype(dtype).name}"
    return None


def device_refusal() -> str | None:
    """Why there is no kernel, or None: it needs a CUDA device and JAX's plugin for it."""
    platform = platform_name()
    if platform not in ("gpu", "cuda"):
        return f"expected a CUDA device, got {platform}"
    try:
        from jax.experimental import rnn

        known = rnn.gpu_rnn._cuda_rnn is not None
    except (ImportError, AttributeError):
        known = False
    return None if known else "expected JAX's CUDA plugin with cuDNN, got a GPU without it"


def precision_refusal() -> str | None:
    """Why the kernel's products cannot have JAX's precision; None if they can."""
    if (precision := default_precision()) in PRECISIONS:
        return None
    return (
        'expected a default matmul precision of "float32", "tensorfloat32" or None, got '
        f"{precision!r}"
    )


def require_cudnn(layers: Layers, dtype: Any, masks: StepMasks) -> None:
    """Refuse layers, settings or masks that NVIDIA's kernel cannot run.

    Raises:
        ValueError: naming the expected and the actual value.
    """
    reason = refusal(layers, dtype) or device_refusal() or precision_refusal()
    if reason is not None:
        raise ValueError(f'backend="cudnn" does not fit: {reason}.')
    if name := unsupported_mask(masks):
        raise ValueError(f'backend="cudnn" does not fit: expected lengths alone, got {name}.')


def unsupported_mask(masks: StepMasks) -> str | None:
    """The first mask that the kernel does not have, by its name in `unroll`; None if there is none."""
    given = {
        "resets": masks.reset,
        "truncate": masks.cut,
        "zoneout": masks.zoneout,
        "recurrent_dropout": masks.dropout,
        "a mask, or outside='last'": masks.gaps,
    }
    return next((name for name, mask in given.items() if mask is not None), None)
