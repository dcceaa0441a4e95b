"""The unrolls that are timed: cell, shape (T, B, D, H) and pass, with their floating-point operations."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from benchmarks.device_and_precision import Device, Precision

CellName = Literal["lstm", "gru", "rnn"]
PassName = Literal["forward", "gradient"]
CELLS: tuple[CellName, ...] = get_args(CellName)
PASSES: tuple[PassName, ...] = get_args(PassName)
PRE_ACTIVATIONS = {"lstm": 4, "gru": 3, "rnn": 1}
"""Pre-activations per hidden unit."""


class CaseError(ValueError):
    """A case that cannot be timed; the message is one sentence for the command line."""


@dataclass(frozen=True)
class Shape:
    """Time steps T, batch B, input size D, hidden size H."""

    time: int
    batch: int
    input_size: int
    hidden_size: int

    def __str__(self) -> str:
        return f"{self.time},{self.batch},{self.input_size},{self.hidden_size}"


@dataclass(frozen=True)
class Case:
    """One cell, one shape, forward alone or forward and backward."""

    cell: CellName
    shape: Shape
    pass_: PassName
    precision: Precision = "float32"
    device: Device = "cpu"

    @property
    def title(self) -> str:
        """``LSTM 100,32,64,128 gradient``, and the precision where it is not float32."""
        digits = "" if self.precision == "float32" else f", {self.precision}"
        return f"{self.cell.upper()} {self.shape} {self.pass_}{digits}"

    @property
    def flops(self) -> float:
        """Floating-point operations of the matrix products: 2·T·B·(D+H)·nH forward, thrice that in all.

        The gradient runs the forward pass and two products of the same size, one for the states and
        inputs, one for the weights. Elementwise work is left out.
        """
        s = self.shape
        width = PRE_ACTIVATIONS[self.cell] * s.hidden_size
        forward = 2.0 * s.time * s.batch * (s.input_size + s.hidden_size) * width
        return forward if self.pass_ == "forward" else 3 * forward

    def as_json(self) -> dict[str, Any]:
        """The case in types that JSON has; `case_from` reads it."""
        return asdict(self)


def case_from(data: dict[str, Any]) -> Case:
    """The case that `Case.as_json` wrote."""
    return Case(**{**data, "shape": Shape(**data["shape"])})


SHAPES = (
    Shape(100, 32, 64, 128),
    Shape(300, 32, 128, 256),
    Shape(300, 1, 32, 64),
    Shape(35, 32, 28, 256),
    Shape(20, 20, 200, 200),
    Shape(1000, 16, 64, 512),
)
"""The shapes of the LSTM; the other cells take the first two."""
GPU_SHAPES = (Shape(1024, 16, 768, 768), Shape(512, 64, 512, 512))
"""More shapes of the LSTM, large enough for a GPU."""
QUICK_SHAPES = (Shape(8, 2, 3, 4), Shape(12, 4, 8, 16))
UNTUNED = "untuned"
UNTUNED_SHAPES = (
    Shape(64, 128, 40, 96),
    Shape(512, 8, 300, 300),
    Shape(50, 64, 650, 650),
    Shape(128, 1, 256, 1024),
    Shape(10, 256, 10, 33),
)
"""Shapes that no setting was chosen on: ``--shape untuned``."""


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Read ``T,B,D,H``, or the name ``untuned``.

    Raises:
        CaseError: anything else.
    """
    if text == UNTUNED:
        return UNTUNED_SHAPES
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise CaseError(
            "Shape mismatch: expected --shape as four positive whole numbers T,B,D,H, such as "
            f"100,32,64,128, or {UNTUNED}, got {text!r}."
        )
    return (Shape(*map(int, parts)),)


def select(
    cell: CellName | None,
    shapes: Sequence[str],
    pass_: PassName | None,
    *,
    quick: bool,
    gpu: bool = False,
    precisions: Sequence[Precision] = ("float32",),
    device: Device = "cpu",
) -> tuple[Case, ...]:
    """The cases of a run: all, or the part that is named.

    Args:
        cell: one cell, or all if None.
        shapes: ``T,B,D,H`` each, or ``untuned`` for `UNTUNED_SHAPES`; if empty, the standard ones of each
            cell.
        pass_: one pass, or both if None.
        quick: take tiny shapes in place of the standard ones.
        gpu: whether the standard shapes are those of a GPU too.
        precisions: one after the other.
        device: where the competitors compute.

    Raises:
        CaseError: a shape that does not parse.
    """
    asked = tuple(shape for text in shapes for shape in parse_shapes(text))
    standard = QUICK_SHAPES if quick else SHAPES + GPU_SHAPES * gpu
    return tuple(
        Case(name, shape, kind, precision, device)
        for precision in precisions
        for name in CELLS
        if cell in (None, name)
        for shape in asked or (standard if name == "lstm" else standard[:2])
        for kind in PASSES
        if pass_ in (None, kind)
    )
