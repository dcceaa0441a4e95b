"""A program that a worker process times: it compiles once and can then be called many times."""

from collections.abc import Callable
from typing import Any, NamedTuple


class NotOffered(Exception):
    """The competitor does not offer this case; the message says what is missing."""


class Contestant(NamedTuple):
    """One competitor on one case.

    Attributes:
        compile: traces and compiles ahead of time, and returns the call to be timed. A call returns when its
            result is computed. It may return its time in seconds, a float, where the clock around it is not
            right (a total interpolated from samples).
        compile_runs: whether `compile` has to run the call once to compile it; the time of that run is then
            subtracted from the compile time.
        compile_scale: factor of the compile time, where only a sample of the programs is compiled.
    """

    compile: Callable[[], Callable[[], float | None]]
    compile_runs: bool = False
    compile_scale: float = 1.0


def jitted(function: Callable[..., Any], *arguments: Any) -> Contestant:
    """A contestant that is one jitted function of JAX arrays, lowered and compiled ahead of time."""
    import jax

    def build() -> Callable[[], None]:
        compiled = jax.jit(function).lower(*arguments).compile()

        def call() -> None:
            jax.block_until_ready(compiled(*arguments))

        return call

    jax.block_until_ready(arguments)
    return Contestant(build)
