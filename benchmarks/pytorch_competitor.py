"""The competitor of an unroll in PyTorch: ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``, one layer, time first."""

from collections.abc import Callable
from typing import Any

from benchmarks.cases import Case
from benchmarks.device_and_precision import torch_place
from benchmarks.machine import cores_allowed
from benchmarks.timed_program import Contestant


def pytorch_contestant(case: Case) -> Contestant:
    """A call: forward under ``no_grad``; or forward and ``backward`` into gradients that were None."""
    import torch

    torch.set_num_threads(cores_allowed())
    torch.manual_seed(0)
    s = case.shape
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[case.cell]
    place = torch_place(case.device, case.precision)
    network = kind(s.input_size, s.hidden_size, **place)
    differentiated = case.pass_ == "gradient"
    xs = torch.randn(s.time, s.batch, s.input_size, requires_grad=differentiated, **place)
    weight = torch.randn(s.time, s.batch, s.hidden_size, **place)
    started = [
        torch.zeros(1, s.batch, s.hidden_size, requires_grad=differentiated, **place)
        for _ in range(2 if case.cell == "lstm" else 1)
    ]
    state0: Any = tuple(started) if case.cell == "lstm" else started[0]
    leaves = [*network.parameters(), xs, *started]

    def forward() -> None:
        with torch.no_grad():
            network(xs, state0)

    def gradient() -> None:
        for leaf in leaves:
            leaf.grad = None
        hs, _ = network(xs, state0)
        torch.dot(hs.reshape(-1), weight.reshape(-1)).backward()

    def build() -> Callable[[], None]:
        run = gradient if differentiated else forward
        return _finished(run) if case.device == "gpu" else run

    return Contestant(build)


def _finished(run: Callable[[], None]) -> Callable[[], None]:
    """The call, which on a GPU returns before its result is computed, with a wait for it."""
    import torch

    def call() -> None:
        run()
        torch.cuda.synchronize()

    return call
