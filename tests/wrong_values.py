"""Wrong values by the kind of an argument, and the cases of a table of entry points.

An entry is ``(call, given, kinds)``: ``call(**given)`` is right, and is refused with any wrong value of its
kind in place of an argument. A kind is a name in `GENERAL`, or in the table's own, or a list of values.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

KEY = jax.random.key(0)


class Tensor:
    """Looks like an array, as another framework's tensor does."""

    shape, dtype, ndim = (6, 2, 3), "torch.float32", 3


GENERAL = {
    "size": [0, -1, 2.5, True, "3", 2**70, np.nan, [3], np.array([1, 2])],
    "count": [-1, 2.5, "3", None, 2**70, [3], np.array([1, 2])],
    "rate": ["x", np.nan, np.inf, -1.5, True, None, [0.1], jnp.ones(2), 5.0],
    "scale": ["x", np.nan, np.inf, True, None, [0.1], jnp.ones(2)],
    "option": ["no", "", 3, True, ["auto"], None],
    "bool": ["no", 1, 0.0, None, [], "True"],
    "key": [0, None, 1.5, "k", jax.random.split(KEY, 3), jnp.ones(2)],
    "dtype": ["no", "", 3, True, ["float32"], "int8", "complex64"],
    "text": [None, 3, b"abc", ["a", 3], object()],
    "path": [3, b"x", "", object()],
    "function": [3, "f", lambda: 0, lambda one: one],
    "initialiser": [
        3,
        "x",
        lambda: 0,
        lambda key, shape, dtype: jnp.ones(3),
        lambda key, shape, dtype: jnp.ones((1, *shape[1:])),
        lambda key, shape, dtype: None,
        lambda key, shape, dtype: jnp.ones(shape, jnp.int32),
        lambda key, shape, dtype: np.full(shape, np.nan, np.float32),
    ],
}


def cases(entries, own):
    """A parameter for each wrong value: the call, what is given, the argument's name, the value.

    Args:
        entries: of the table; a kind is a name, or a list of values and, first in it, the name of a kind.
        own: the table's own kinds.
    """
    wrong = GENERAL | own

    def values(kind):
        if isinstance(kind, str):
            return wrong[kind]
        first = kind[0] if kind else None
        known = isinstance(first, str) and first in wrong
        return [*wrong[first], *kind[1:]] if known else kind

    def marks(number, name, n):
        # The quick run takes a sixth of each kind, another sixth for each argument.
        known = name == "lengths" or (number + len(name) + n) % 6 == 0
        return () if known else pytest.mark.slow

    return [
        pytest.param(
            call, given, name, value, id=f"{number}-{name}-{n}", marks=marks(number, name, n)
        )
        for number, (call, given, kinds) in enumerate(entries)
        for name, kind in kinds.items()
        for n, value in enumerate(values(kind))
    ]


def require_refused(call, given, name, value):
    """Call with a wrong value, and expect one sentence of what was expected and what came."""
    with pytest.raises((ValueError, TypeError, RuntimeError)) as refused:
        call(**given | {name: value})
    first = str(refused.value).splitlines()[0]
    assert "expected" in first and "got" in first
    assert first.endswith((".", "?"))
    # JAX and NumPy have messages with these words too.
    assert type(refused.value).__module__.split(".")[0] in ("builtins", "lstm_jax")
