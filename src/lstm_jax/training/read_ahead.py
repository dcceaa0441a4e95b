"""Work of the host done ahead of the steps, on a thread that ends with the run."""

import queue
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import jax

AHEAD = 2
"""Batches that wait while a step is computed."""
PATIENCE = 10.0
"""Seconds to wait for the thread at the end; it may be in the middle of reading."""


class ReadAhead:
    """The results of ``work()``, called again and again on a thread, in order.

    The thread has the settings of JAX of the one that made it (x64, promotion), which JAX keeps by thread.

    Args:
        work: a function without arguments. What it raises comes out of `take`, after what came before it.
        ahead: results that may wait.
    """

    def __init__(self, work: Callable[[], Any], ahead: int = AHEAD) -> None:
        self._work = work
        self._waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(ahead)
        self._ended = threading.Event()
        config: Any = jax.config
        self._settings = (
            (jax.enable_x64, config.jax_enable_x64),
            (jax.numpy_dtype_promotion, config.jax_numpy_dtype_promotion),
            (jax.numpy_rank_promotion, config.jax_numpy_rank_promotion),
            (jax.default_device, config.jax_default_device),
        )
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)
        self._thread.start()

    def take(self) -> Any:
        """The next result; waits for it."""
        result, error = self._waiting.get()
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """End the thread; what waits is dropped."""
        self._ended.set()
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        with ExitStack() as settings:
            for setting, value in self._settings:
                settings.enter_context(setting(value))
            while not self._ended.is_set():
                try:
                    self._put((self._work(), None))
                except BaseException as error:  # It is raised where the result is taken.
                    self._put((None, error))
                    return

    def _put(self, one: tuple[Any, BaseException | None]) -> None:
        while not self._ended.is_set():
            try:
                return self._waiting.put(one, timeout=0.1)
            except queue.Full:
                continue
