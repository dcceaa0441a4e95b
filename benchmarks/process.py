"""Start worker processes, send them commands, read their replies, and end them in every case."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, NamedTuple

from benchmarks.device_and_precision import Device, Precision, jax_settings
from benchmarks.machine import thread_settings

DEAD_AFTER = 5.0
"""A worker that has not ended after so many seconds is killed."""


class Entrant(NamedTuple):
    """A competitor in a race.

    Attributes:
        name: the competitor.
        module: where its ``contestant(name, arguments)`` is.
        arguments: of types that JSON has.
        device: where it computes.
        precision: of its computation.
    """

    name: str
    module: str
    arguments: dict[str, Any]
    device: Device = "cpu"
    precision: Precision = "float32"


class WorkerLost(Exception):
    """A worker is not installed, has failed or died, or does not answer; the message says which."""


class Worker:
    """One competitor's process."""

    def __init__(self, entrant: Entrant, threads: int, turn_ms: float) -> None:
        self.name = entrant.name
        self._unread = b""
        self._errors = tempfile.TemporaryFile()
        spec = {**entrant._asdict(), "threads": threads, "turn_ms": turn_ms}
        paths = [path or os.getcwd() for path in sys.path]
        # In a new session, so that Ctrl-C reaches the parent alone, which then ends every worker.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={
                **os.environ,
                **thread_settings(threads),
                **jax_settings(entrant.device, entrant.precision),
                "PYTHONPATH": os.pathsep.join(paths),
            },
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, command: str, patience: float) -> dict[str, Any]:
        """Send a command and wait for the reply.

        Raises:
            WorkerLost: no reply within ``patience`` seconds, or a failure.
        """
        stream = self._process.stdin
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.write(f"{command}\n".encode())
                stream.flush()
        return self.hear(patience)

    def hear(self, patience: float) -> dict[str, Any]:
        """Wait for the next reply; raises as `ask`."""
        line = self._line(patience)
        try:
            message: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            raise WorkerLost(f"failed: unreadable reply {line[:80]!r}") from None
        if message.get("state") in ("absent", "failed"):
            raise WorkerLost(message["reason"])
        return message

    def end(self) -> None:
        """End the process, kill it if it does not go; a second call does nothing."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process.terminate()
        try:
            self._process.wait(DEAD_AFTER)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _line(self, patience: float) -> bytes:
        stream = self._process.stdout
        if stream is None:
            raise WorkerLost("failed: no pipe")
        deadline = monotonic() + patience
        while b"\n" not in self._unread:
            left = deadline - monotonic()
            if left <= 0 or not select.select([stream], [], [], left)[0]:
                raise WorkerLost(f"no answer within {patience:.0f} s")
            piece = os.read(stream.fileno(), 1 << 16)
            if not piece:
                raise WorkerLost(self._cause_of_death())
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _cause_of_death(self) -> str:
        code = self._process.wait(DEAD_AFTER)
        if code < 0:
            return f"died: {signal.Signals(-code).name}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"died: exit {code}" + (f": {lines[-1][:200]}" if lines else "")


@contextlib.contextmanager
def started(entrants: Sequence[Entrant], threads: int, turn_ms: float) -> Iterator[list[Worker]]:
    """Start one worker for each entrant, and end all of them, also after an error or Ctrl-C."""
    workers: list[Worker] = []
    try:
        for entrant in entrants:
            workers.append(Worker(entrant, threads, turn_ms))
        yield workers
    finally:
        for worker in workers:
            worker.end()
