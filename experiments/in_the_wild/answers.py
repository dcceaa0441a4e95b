"""What some networks answer to their inputs: whether the inputs are what they were made for.

Each readout is the package's own, in NumPy on the outputs of the recurrent layers.

Axes: xs[T, samples, D]; ys[T, samples, H].
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.in_the_wild.inputs import Wanted
from lstm_jax import Stack, StackParams, stack, unroll_stack

WINDOW = 40
"""Characters that textgenrnn sees before the next one."""


def languages(want: Wanted, net: Stack, params: StackParams, xs: np.ndarray) -> str:
    """How many samples of English it takes for English: the largest sum over the steps."""
    import torch

    names = torch.load(want.file, map_location="cpu", weights_only=True)["lang_to_idx"]
    weight, bias = want.array("hidden2lang.weight"), want.array("hidden2lang.bias")
    said = (_outputs(net, params, xs) @ weight.T + bias).sum(axis=0).argmax(axis=-1)
    return f"takes {int((said == names['en']).sum())} of {len(said)} samples for English"


def silero_vad(want: Wanted, net: Stack, params: StackParams, xs: np.ndarray) -> str:
    """At what share of the steps it hears speech: σ(w · relu h + b) above ½."""
    score = np.maximum(_outputs(net, params, xs), 0) @ want.array("final_conv.weight")[0, :, 0]
    heard = score + want.array("final_conv.bias") > 0
    return f"hears speech at {np.mean(heard):.0%} of the steps"


def textgenrnn(want: Wanted, net: Stack, params: StackParams, xs: np.ndarray) -> str:
    """How many next characters it gets right: attention over the steps of a window, and of all layers."""
    starts = range(0, len(xs) - WINDOW, 5)
    windows = np.concatenate([xs[s : s + WINDOW] for s in starts], axis=1)
    low = _outputs(stack(net.layers[0]), StackParams(params.layers[:1]), windows)
    seen = np.concatenate([windows, low, _outputs(net, params, windows)], axis=-1)
    score = seen @ want.array("attention_W")[:, 0]
    share = np.exp(score - score.max(axis=0))
    mean = ((share / share.sum(axis=0))[..., None] * seen).sum(axis=0)
    said = (mean @ want.array("output.kernel") + want.array("output.bias")).argmax(axis=-1)
    following = np.concatenate([xs[s + WINDOW] for s in starts])
    right = (want.array("embedding.embeddings")[said] == following).all(axis=-1)
    return f"gets {right.mean():.0%} of {len(right)} next characters right"


def intrusion(want: Wanted, net: Stack, params: StackParams, xs: np.ndarray) -> str:
    """In how many connections it sees an attack: by h at the end of the first of a sample."""
    last = _outputs(net, params, xs[:37])[-1]
    h = last @ want.array("sequential.dense.kernel") + want.array("sequential.dense.bias")
    score = np.maximum(h, 0) @ want.array("dense_1.kernel") + want.array("dense_1.bias")
    return f"sees an attack in {int((score > 0).sum())} of {score.size} connections of noise"


def _outputs(net: Any, params: Any, xs: np.ndarray) -> np.ndarray:
    return np.asarray(unroll_stack(net, params, jnp.asarray(xs))[1])


ANSWERS: dict[str, Callable[[Wanted, Stack, StackParams, np.ndarray], str]] = {
    "languages": languages,
    "silero_vad": silero_vad,
    "textgenrnn": textgenrnn,
    "intrusion": intrusion,
}
"""By the key of the package."""
