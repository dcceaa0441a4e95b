"""What a compiled program moves between devices: its collectives, with their bytes and how often they run.

A collective in the body of a loop runs as often as the loop, whose count XLA writes beside it. The bytes
that one of n devices sends are those of a ring: (n−1)/n of the result where it is gathered, of the operand
where it is scattered or exchanged, and twice that where it is summed everywhere.
"""

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "f64": 8,
    "s64": 8,
}
LINE = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(?:-start)?\(")


class Collective(NamedTuple):
    """A collective of a program.

    Attributes:
        kind: its name in XLA.
        times: it runs in one call of the program.
        devices: that take part in each.
        sent: bytes that a device sends in all those times.
    """

    kind: str
    times: int
    devices: int
    sent: float


def collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program's text, ``compiled.as_text()``."""
    bodies, entry = _computations(text)
    found: list[Collective] = []

    def walk(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            if match := LINE.search(line):
                found.append(_collective(match[2], match[1], line, times))
            if " while(" in line:
                body = re.search(r"body=%?([\w.\-]+)", line)
                count = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                if body:
                    walk(body[1], times * (int(count[1]) if count else 1))
            elif inner := re.search(r" call\(.*to_apply=%?([\w.\-]+)", line):
                walk(inner[1], times)

    walk(entry, 1)
    return found


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        if head := re.match(r"^(ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _collective(kind: str, shapes: str, line: str, times: int) -> Collective:
    size = sum(
        BYTES.get(dtype, 4) * math.prod(map(int, filter(None, axes.split(","))))
        for dtype, axes in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    )
    devices = _group(line)
    share = (devices - 1) / devices
    sent = {
        "all-reduce": 2 * share * size,
        "all-gather": share * size,
        # The result is a part of the operand.
        "reduce-scatter": (devices - 1) * size,
        "all-to-all": share * size,
        "collective-permute": size,
    }[kind]
    return Collective(kind, times, devices, times * sent)


def _group(line: str) -> int:
    """How many devices exchange among themselves; XLA writes it in three ways."""
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}", line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
    if table := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(table[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if "source_target_pairs" in line:
        return 2
    raise ValueError(f"Program mismatch: expected replica_groups, got {line[-400:]}")
