"""Functions with some arguments held, as values: equal, hashable and picklable where those arguments are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Held:
    """``function(*held, *rest)`` as a function of the rest.

    `functools.partial` and a function inside of a function are only equal to themselves, so that a network
    made twice would compile twice.

    Attributes:
        function: of a module, which `pickle` finds by its name.
        held: its first arguments.
    """

    function: Callable[..., Any]
    held: tuple[Any, ...]

    def __call__(self, *rest: Any, **options: Any) -> Any:
        """Call the function."""
        return self.function(*self.held, *rest, **options)


def hold(function: Callable[..., Any], *held: Any) -> Held:
    """Hold the first arguments of a function.

    Example:
        >>> from lstm_jax.held_arguments import hold
        >>> hold(pow, 2)(5), hold(pow, 2) == hold(pow, 2)
        (32, True)
    """
    return Held(function, held)
