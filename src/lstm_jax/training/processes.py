"""Several processes of one run decide alike, and an error in one is known to all.

What the first process decides is told to the others, and what each has to do is done when all have done it.
An error is told through JAX's coordination service, which works while devices wait for each other: a process
that is stuck in a computation, because another has left it, says so and ends.
"""

import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import jax

from lstm_jax.training.system_errors import reason

Result = TypeVar("Result")

MEET_SECONDS = 2
"""How long a process that failed waits for the others, so that they hear of it."""
GRACE_SECONDS = 5
"""How long a process may be at work after another has failed."""
A_DAY = 86_400
_runs = itertools.count()


class ProcessError(RuntimeError):
    """Another process of the run has failed."""


class Processes:
    """The processes of a run; one alone has nobody to ask.

    Attributes:
        first: whether this is the first one.
        several: whether there are others.
    """

    def __init__(self) -> None:
        self.first = jax.process_index() == 0
        self.several = jax.process_count() > 1
        self._client: Any = None
        if self.several:
            from jax._src import distributed  # Where orbax and JAX's own parts have it from.

            self._client = distributed.global_state.client
        self._name = f"lstm_jax/{next(_runs)}"
        self._met = 0
        self._over = threading.Event()

    def each(self, action: Callable[[], Result]) -> Result:
        """Do something in every process, and go on when all have done it.

        Raises:
            ProcessError: it failed in another process; in this one the error itself.
        """
        try:
            result = action()
        except BaseException as error:
            self._tell(error)
            raise
        self._meet()
        return result

    def decided(self, action: Callable[[], Result]) -> Result:
        """Do something in the first process; its result, which JSON can hold, in all of them.

        Raises:
            ProcessError: it failed in the first process; there the error itself.
        """
        if self._client is None:
            return action()
        key = f"{self._name}/decided/{self._met}"

        def act() -> Result | None:
            if not self.first:
                return None
            result = action()
            self._client.key_value_set(key, json.dumps(result))
            return result

        result = self.each(act)
        if self.first:
            return result  # type: ignore[return-value]
        told: Result = json.loads(self._client.blocking_key_value_get(key, 1000 * A_DAY))
        return told

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell the others what fails in here, and end this process where it cannot go on without another."""
        if self._client is None:
            yield
            return
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield
        except BaseException as error:
            self._tell(error)
            raise
        finally:
            self._over.set()

    def _tell(self, error: BaseException) -> None:
        if self._client is None or isinstance(error, ProcessError) or self._over.is_set():
            return
        self._over.set()
        said = f"{type(error).__name__}: {reason(error)}"
        with suppress(Exception):
            key = f"{self._name}/failed/{jax.process_index()}"
            self._client.key_value_set(key, said)
            self._client.wait_at_barrier(f"{self._name}/{self._met}", 1000 * MEET_SECONDS)

    def _meet(self) -> None:
        if self._client is None:
            return
        broken = None
        try:
            self._client.wait_at_barrier(f"{self._name}/{self._met}", 1000 * A_DAY)
        except Exception as error:  # A process has left it, or is lost.
            broken = reason(error)
        self._met += 1
        told = self._failure()
        if told is None and broken is not None:
            told = f"Lost process: expected all {jax.process_count()} to go on, got: {broken}."
        if told is not None:
            self._over.set()
            raise ProcessError(told)

    def _failure(self) -> str | None:
        """What another process said when it failed, if one has."""
        try:
            found = self._client.key_value_dir_get(f"{self._name}/failed/")
        except Exception:  # The service is gone, with the first process.
            return None
        for key, said in found:
            process = key.rpartition("/")[2]
            if process != str(jax.process_index()):
                return f"Failed process: expected all to go on, got an error in process {process}: {said}"
        return None

    def _watch(self) -> None:
        while not self._over.wait(1):
            told = self._failure()
            if told is None or self._over.wait(GRACE_SECONDS):
                continue
            print(f"ProcessError: {told}", file=sys.stderr, flush=True)
            # The failed process waits for this one when it ends.
            ends = threading.Thread(target=jax.distributed.shutdown, daemon=True)
            ends.start()
            ends.join(GRACE_SECONDS)
            os._exit(1)
