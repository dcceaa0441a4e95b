"""The compiled programs of a step: one for each shape of its batches, within a bound."""

import time
import warnings
from typing import Any

import jax

from lstm_jax.array_types import PyTree
from lstm_jax.validation import leaf_name, show_shape

MOST_PROGRAMS = 32
"""Programs that are kept; the one that was used longest ago makes way for another."""


class ManyShapesWarning(UserWarning):
    """Batches of so many shapes that programs are compiled again and again."""


class StepPrograms:
    """A jitted step, compiled for the shapes that come.

    Attributes:
        seconds: of compiling.
    """

    def __init__(self, jitted: Any) -> None:
        self._jitted = jitted
        self._programs: dict[Any, Any] = {}
        self._last: tuple[Any, Any] = (self, None)  # data, and their program
        self._warned = False
        self.seconds = 0.0

    def __call__(self, state: PyTree, data: PyTree, *more: Any) -> Any:
        """``step(state, data, *more)``."""
        if self._last[0] is not data:
            self._last = data, self.compiled(state, data, *more)
        return self._last[1](state, data, *more)

    def compiled(self, state: PyTree, data: PyTree, *more: Any) -> Any:
        """The program for data of these shapes."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(data))
        program = self._programs.pop(shapes, None)
        if program is None:
            begun = time.perf_counter()
            program = self._jitted.lower(state, data, *more).compile()
            self.seconds += time.perf_counter() - begun
            if len(self._programs) >= MOST_PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
                self._warn(data)
        self._programs[shapes] = program
        return program

    def _warn(self, data: PyTree) -> None:
        if self._warned:
            return
        self._warned = True
        flat = jax.tree_util.tree_flatten_with_path(data)[0]
        got = ", ".join(
            f"{leaf_name(path) or 'an array'} {show_shape(leaf.shape)}" for path, leaf in flat[:4]
        )
        warnings.warn(
            f"Many shapes: expected batches of at most {MOST_PROGRAMS} shapes, each of which takes a program "
            f"of its own, got one more: {got}. Pad them to a few lengths, as lstm_jax.datasets.batches does.",
            ManyShapesWarning,
            stacklevel=4,
        )
