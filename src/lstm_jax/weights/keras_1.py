"""Arrays of Keras 1, one for each gate, as kernel, recurrent kernel and bias of Keras 2.

    lstm_1_W_i [D, H]   lstm_1_U_i [H, H]   lstm_1_b_i [H]      and so on for f, c and o
    gru_1_W_z           gru_1_U_z           gru_1_b_z           and so on for r and h

The letters of the gates tell their order. Keras 1 resets before the product, as a bias [3H] tells.
"""

import re
from typing import Any

import numpy as np

from lstm_jax.weights.arrays import to_numpy

GATE = re.compile(r"(?:(?P<place>.*[^._])[._])?(?P<part>[WUb])_(?P<gate>[ifcozrh])")
GATES = ("ifco", "zrh")
PARTS = {"W": "kernel", "U": "recurrent_kernel", "b": "bias"}


def joined_gates(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays with those of one gate put together where a layer has all of its gates.

    Args:
        arrays: by their names.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.weights.keras_1 import joined_gates
        >>> arrays = {f"gru_1_{p}_{g}": np.ones((2, 2)) for p in "WU" for g in "zrh"}
        >>> {name: array.shape for name, array in joined_gates(arrays).items()}
        {'gru_1.kernel': (2, 6), 'gru_1.recurrent_kernel': (2, 6)}
    """
    places: dict[str, dict[str, str]] = {}
    for name in arrays:
        match = GATE.fullmatch(name)
        if match:
            places.setdefault(match["place"] or "", {})[match["part"] + match["gate"]] = name
    found = dict(arrays)
    for place, named in places.items():
        for gates in GATES:
            parts = [part for part in "WUb" if part + gates[0] in named]
            keys = {part + gate for part in parts for gate in gates}
            if set(named) != keys or parts[:2] != ["W", "U"]:
                continue
            values = {key: to_numpy(named[key], found[named[key]]) for key in keys}
            if not all(len({values[p + g].shape for g in gates}) == 1 for p in parts):
                continue
            for name in named.values():
                del found[name]
            # The layer's group, and then its name again in front of each weight.
            above, _, below = place.rpartition(".")
            dot = f"{above if above == below or above.endswith('.' + below) else place}."
            for part in parts:
                joined = np.concatenate([values[part + gate] for gate in gates], -1)
                found[f"{dot if place else ''}{PARTS[part]}"] = joined
    return found
