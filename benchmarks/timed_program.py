"""What a worker process times: something that compiles once and can then be called again and again."""

from collections.abc import Callable
from typing import Any, NamedTuple


class NotOffered(Exception):
    """The competitor has nothing to put against this case; the message says what is missing."""


class Contestant(NamedTuple):
    """One competitor on one case.

    Attributes:
        compile: traces and compiles what it can ahead of time, and returns the call to be timed. A call
            returns when its result is computed; it may return seconds of its own, a float, where the
            clock around it would not tell the truth (a total interpolated from samples).
        compile_runs: whether `compile` has to run the call once to compile it; that run is then taken
            off the compile time.
        compile_scale: by what the compile time is multiplied, where only a sample of programs is built.
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
