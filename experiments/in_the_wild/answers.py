"""What some networks answer to their inputs: whether the inputs are what they were made for.

The readout of a network that says something about a whole sample, in NumPy, on the outputs of its top layer.

Axes: ys[T, samples, H].
"""

from collections.abc import Callable

import numpy as np

from experiments.in_the_wild.inputs import Wanted


def languages(want: Wanted, ys: np.ndarray) -> str:
    """How many samples of English it takes for English: the largest sum over the steps."""
    import torch

    names = torch.load(want.file, map_location="cpu", weights_only=True)["lang_to_idx"]
    weight, bias = want.array("hidden2lang.weight"), want.array("hidden2lang.bias")
    said = (ys @ weight.T + bias).sum(axis=0).argmax(axis=-1)
    return f"takes {int((said == names['en']).sum())} of {len(said)} samples for English"


def silero_vad(want: Wanted, ys: np.ndarray) -> str:
    """At what share of the steps it hears speech: σ(w · relu h + b) above ½."""
    score = np.maximum(ys, 0) @ want.array("final_conv.weight")[0, :, 0]
    heard = score + want.array("final_conv.bias") > 0
    return f"hears speech at {np.mean(heard):.0%} of the steps"


def intrusion(want: Wanted, ys: np.ndarray) -> str:
    """At what share of the connections it sees an attack: by h at the end of the first of a sample."""
    h = ys[36] @ want.array("sequential.dense.kernel") + want.array("sequential.dense.bias")
    score = np.maximum(h, 0) @ want.array("dense_1.kernel") + want.array("dense_1.bias")
    return f"sees an attack in {int((score > 0).sum())} of {score.size} connections of noise"


ANSWERS: dict[str, Callable[[Wanted, np.ndarray], str]] = {
    "languages": languages,
    "silero_vad": silero_vad,
    "intrusion": intrusion,
}
"""By the key of the package."""
