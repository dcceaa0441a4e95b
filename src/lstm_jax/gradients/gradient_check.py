r"""Compare the gradients of a loss by hand, by autodiff and by differences, parameter by parameter.

All three in float64, whatever the session's default:

    by hand       the derived formula
    autodiff      `jax.grad` of the plain program
    differences   (L(θ + εe) − L(θ − εe)) / 2ε for each coordinate, extrapolated once (Richardson):
                  (4 D(ε) − D(2ε)) / 3, error O(ε⁴)

The error of a against b for one leaf is max|a − b| / max|b|. A leaf that is zero in both has error 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import PyTree, shapes_of
from lstm_jax.validation import (
    leaf_name,
    require_finite,
    require_number,
    require_positive_int,
    require_same_structure,
    show_shape,
)


class LeafErrors(NamedTuple):
    """Relative errors of one leaf's gradient: max|a − b| / max|b|.

    Attributes:
        name: the leaf's path, ``params.w_h``.
        shape: its shape.
        scale: max|gradient| by autodiff.
        by_hand_autodiff: by hand against autodiff.
        by_hand_differences: by hand against central differences, over the coordinates differenced.
        autodiff_differences: autodiff against central differences.
        coordinates: how many coordinates were differenced.
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    by_hand_autodiff: float
    by_hand_differences: float
    autodiff_differences: float
    coordinates: int


class GradientReport(NamedTuple):
    """The result of `check_gradients`: data in ``leaves``, a table by `str`.

    Attributes:
        leaves: one `LeafErrors` for each leaf of the parameters.
        tolerance: bound on by hand against autodiff.
        difference_tolerance: bound on either against central differences.
    """

    leaves: tuple[LeafErrors, ...]
    tolerance: float
    difference_tolerance: float

    @property
    def ok(self) -> bool:
        """Whether every leaf is within both tolerances."""
        return not self.failures

    @property
    def failures(self) -> tuple[LeafErrors, ...]:
        """The leaves outside a tolerance; a NaN is outside."""
        return tuple(leaf for leaf in self.leaves if not self._within(leaf))

    def _within(self, leaf: LeafErrors) -> bool:
        return (
            leaf.by_hand_autodiff <= self.tolerance
            and leaf.by_hand_differences <= self.difference_tolerance
            and leaf.autodiff_differences <= self.difference_tolerance
        )

    def __str__(self) -> str:
        """The table, one line for each leaf."""
        width = max(len("parameter"), *(len(leaf.name) for leaf in self.leaves))
        shapes = [show_shape(leaf.shape) for leaf in self.leaves]
        wide = max(len("shape"), *map(len, shapes))
        lines = [
            f"{'parameter':{width}}  {'shape':{wide}}  {'max |grad|':>10}  {'hand-auto':>9}  "
            f"{'hand-diff':>9}  {'auto-diff':>9}"
        ]
        for leaf, shape in zip(self.leaves, shapes, strict=True):
            lines.append(
                f"{leaf.name:{width}}  {shape:{wide}}  {leaf.scale:10.2e}  "
                f"{leaf.by_hand_autodiff:9.1e}  {leaf.by_hand_differences:9.1e}  "
                f"{leaf.autodiff_differences:9.1e}{'' if self._within(leaf) else '  <- differs'}"
            )
        verdict = "agree" if self.ok else f"DIFFER in {', '.join(f.name for f in self.failures)}"
        lines.append(
            f"gradients {verdict} (by hand against autodiff within {self.tolerance:.0e}, "
            f"against differences within {self.difference_tolerance:.0e}; relative, float64)"
        )
        return "\n".join(lines)


def check_gradients(
    loss: Callable[..., Any],
    params: PyTree,
    *args: Any,
    by_hand: Callable[..., PyTree] | None = None,
    tolerance: float = 1e-12,
    difference_tolerance: float = 1e-6,
    max_coordinates: int = 64,
    step_size: float = 1e-3,
    seed: int = 0,
) -> GradientReport:
    """Compare the gradient by hand, by autodiff and by central differences, in float64.

    Args:
        loss: ``loss(params, *args) -> scalar``. Without ``by_hand`` it must take the keyword
            ``gradient`` and pass it to `unroll`: the gradient by hand is then `jax.grad` of the loss
            with ``gradient="bptt"``, the other with ``gradient="autodiff"``.
        params: pytree of floating arrays, differentiated leaf by leaf. Put the inputs and the starting
            state into it to check those as well.
        *args: further arguments, not differentiated. Arrays among them become float64 too. Pass the arrays
            that ``loss`` needs here: those that it captures keep their dtype.
        by_hand: ``by_hand(params, *args) -> gradient`` shaped as ``params``: your derivation, to be checked.
        tolerance: bound on the relative error of by hand against autodiff.
        difference_tolerance: bound on the relative error of either against central differences.
        max_coordinates: how many coordinates of each leaf are differenced, drawn at random where
            the leaf has more.
        step_size: ε, relative to max(1, |θ|).
        seed: of that draw.

    Returns:
        A `GradientReport`: ``report.leaves``, ``report.ok`` and a table by ``print(report)``.

    Raises:
        NonFiniteError: a NaN or an infinity in ``params`` or ``args``.
        TypeError: a gradient by hand whose structure is not that of ``params``.
        ValueError: a loss that is not a scalar.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> cell = lstm_jax.lstm(3, 4)
        >>> def loss(inputs, gradient):
        ...     _, hs = lstm_jax.unroll(cell, inputs["params"], inputs["xs"], gradient=gradient)
        ...     return jnp.sum(jnp.sin(hs))
        >>> inputs = {"params": cell.init(jax.random.key(0)), "xs": jnp.ones((6, 3))}
        >>> lstm_jax.check_gradients(loss, inputs).ok
        True
    """
    require_positive_int("max_coordinates", max_coordinates)
    require_number("step_size", step_size, above=0)
    if not jax.tree.leaves(params) or not all(
        jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(params)
    ):
        raise TypeError(
            "Dtype mismatch: expected params as a pytree of floating arrays, got "
            f"{jax.tree.map(lambda leaf: jnp.result_type(leaf).name, params)}."
        )
    require_finite("params", params)
    require_finite("args", args)
    with jax.enable_x64(True):
        params, args = in_float64(params), in_float64(args)
        plain = (
            loss if by_hand is not None else lambda p, *rest: loss(p, *rest, gradient="autodiff")
        )
        shape = shapes_of(plain, params, *args)
        if getattr(shape, "shape", None) != ():
            raise ValueError(f"Loss mismatch: expected a scalar loss, got {shape}.")
        if by_hand is None:
            by_hand = jax.grad(lambda p, *rest: loss(p, *rest, gradient="bptt"))
        derived = by_hand(params, *args)
        require_same_structure("the gradient by hand", derived, params)
        autodiff = jax.jit(jax.grad(plain))(params, *args)
        rng = np.random.default_rng(seed)
        value = jax.jit(plain)
        leaves = []
        paths, treedef = jax.tree_util.tree_flatten_with_path(params)
        values = [leaf for _, leaf in paths]
        for n, (path, leaf) in enumerate(paths):
            hand = np.asarray(jax.tree.leaves(derived)[n])
            auto = np.asarray(jax.tree.leaves(autodiff)[n])
            if hand.shape != leaf.shape:
                raise ValueError(
                    f"Shape mismatch: expected the gradient by hand of {leaf_name(path)} as "
                    f"{show_shape(leaf.shape)}, got {show_shape(hand.shape)}."
                )
            chosen = rng.permutation(leaf.size)[:max_coordinates]

            def at(moved: np.ndarray, n: int = n) -> float:
                changed = [*values[:n], jnp.asarray(moved), *values[n + 1 :]]
                return float(value(jax.tree.unflatten(treedef, changed), *args))

            differences = central_differences(at, np.asarray(leaf), chosen, step_size)
            leaves.append(
                LeafErrors(
                    name=leaf_name(path) or "params",
                    shape=leaf.shape,
                    scale=float(np.max(np.abs(auto), initial=0.0)),
                    by_hand_autodiff=relative_error(hand, auto),
                    by_hand_differences=relative_error(hand.ravel()[chosen], differences),
                    autodiff_differences=relative_error(auto.ravel()[chosen], differences),
                    coordinates=len(chosen),
                )
            )
    return GradientReport(tuple(leaves), tolerance, difference_tolerance)


def central_differences(
    function: Callable[[np.ndarray], float],
    point: np.ndarray,
    coordinates: np.ndarray,
    step_size: float,
) -> np.ndarray:
    """∂function/∂point at the given flat coordinates, by central differences extrapolated once.

    Args:
        function: of an array shaped as ``point``.
        point: where to differentiate.
        coordinates: flat indices.
        step_size: ε, relative to max(1, |θ|).

    Returns:
        One number for each coordinate, with error O(ε⁴).
    """

    def slope(coordinate: int, epsilon: float) -> float:
        ends = []
        for sign in (1.0, -1.0):
            moved = point.copy()
            moved.ravel()[coordinate] += sign * epsilon
            ends.append(function(moved))
        return (ends[0] - ends[1]) / (2 * epsilon)

    slopes = []
    for coordinate in coordinates.tolist():
        epsilon = step_size * max(1.0, abs(point.ravel()[coordinate]))
        slopes.append((4 * slope(coordinate, epsilon) - slope(coordinate, 2 * epsilon)) / 3)
    return np.asarray(slopes)


def in_float64(tree: PyTree) -> PyTree:
    """The tree with every floating leaf as float64, the other leaves as they are."""

    def widen(leaf: Any) -> Any:
        array = np.asarray(leaf)
        if array.dtype.kind == "f" or array.dtype == jnp.bfloat16:
            return jnp.asarray(array.astype(np.float64))
        return leaf

    return jax.tree.map(widen, tree)


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """max|value − reference| / max|reference|; 0 where both are zero, ∞ where only the reference is."""
    difference = float(np.max(np.abs(value - reference), initial=0.0))
    scale = float(np.max(np.abs(reference), initial=0.0))
    if difference == 0.0:
        return 0.0
    return difference / scale if scale else float("inf")
