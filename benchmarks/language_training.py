"""Steps of training a language model: ours, Flax nnx's and PyTorch's of the same model, tokens a second.

    char    one layer of 256 units over one-hot characters, V = 28, B = 32, T = 35 (`experiments/char_lm`)
    ptb     two layers of 200 units over embedded words, V = 10,000, B = 20, T = 20 (`experiments/ptb`, small)

Each step reads the next tokens of one drawn text, goes on from the states of the step before, clips the
gradient by its global norm and takes a step of plain gradient descent. A call is a step.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.process import Entrant
from benchmarks.timed_program import Contestant

OURS = "lstm_jax"
LOOP = "lstm_jax, loop"
NNX = "flax nnx"
PYTORCH = "pytorch"
PASSIVE = "pytorch, passive"
NAMES = (OURS, LOOP, NNX, PYTORCH, PASSIVE)
SCALE, CLIP, RATE = 0.1, 5.0, 0.1


class Setting(NamedTuple):
    """A model and its batches; one-hot tokens where there is no embedding."""

    vocabulary: int
    embedding: int | None
    units: int
    layers: int
    batch: int
    length: int

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.batch * self.length


SETTINGS = {
    "char": Setting(28, None, 256, 1, 32, 35),
    "ptb": Setting(10_000, 200, 200, 2, 20, 20),
    "tiny": Setting(11, None, 5, 2, 3, 4),
}


def cases(*, quick: bool) -> list[dict[str, Any]]:
    """The cases, for the jobs of a run."""
    names = ("tiny",) if quick else ("char", "ptb")
    return [
        {
            "part": "training",
            "title": f"{name}: {s.layers} × {s.units}, V = {s.vocabulary}, B = {s.batch}, T = {s.length}",
            "ours": OURS,
            "case": {"setting": name, "tokens": s.tokens},
            "entrants": [Entrant(n, __name__, {"setting": name}) for n in NAMES],
        }
        for name, s in ((name, SETTINGS[name]) for name in names)
    ]


def contestant(name: str, arguments: dict[str, Any]) -> Contestant:
    """The competitor, ready to compile."""
    setting = SETTINGS[arguments["setting"]]
    makers: dict[str, Callable[[Setting], Contestant]] = {
        OURS: _lstm_jax,
        LOOP: _loop,
        NNX: _nnx,
        PYTORCH: _pytorch,
        PASSIVE: _passive,
    }
    return makers[name](setting)


def _text(setting: Setting) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, setting.vocabulary, 200_000).astype(np.int32)


def _loop(setting: Setting) -> Contestant:
    return _lstm_jax(setting, backend="loop")


def _lstm_jax(setting: Setting, backend: str = "auto") -> Contestant:
    import jax
    import jax.numpy as jnp
    import optax

    from lstm_jax import language, lstm, stack, training, uniform

    s, draw = setting, uniform(SCALE)
    sizes = [s.embedding or s.vocabulary, *[s.units] * s.layers]
    cells = [
        lstm(d, h, forget_bias=0.0, w_x_init=draw, w_h_init=draw, b_init=draw)
        for d, h in zip(sizes, sizes[1:], strict=False)
    ]
    net = language.language_model(
        stack(*cells),
        s.vocabulary,
        embedding=s.embedding is not None,
        embedding_init=draw,
        w_y_init=draw,
        b_y_init=draw,
    )

    def batch(codes: Any, step: Any, key: Any) -> language.Batch:
        return language.contiguous(codes, step, s.batch, s.length)

    problem = language.language_problem(net, batch, s.batch, backend=backend)
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.sgd(RATE))
    codes = jnp.asarray(_text(s))

    def build() -> Callable[[], None]:
        state = training.init_state(problem, optimizer, 0)
        step: Any = jax.jit(training.train_step(problem, optimizer), donate_argnums=0)
        compiled = step.lower(state, codes).compile()

        def call() -> None:
            nonlocal state
            state, metrics = compiled(state, codes)
            jax.block_until_ready((state, metrics))

        return call

    return Contestant(build)


def _nnx(setting: Setting) -> Contestant:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    s = setting
    sizes = [s.embedding or s.vocabulary, *[s.units] * s.layers]

    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.embed = nnx.Embed(s.vocabulary, s.embedding, rngs=rngs) if s.embedding else None
            self.layers = nnx.List(
                [
                    nnx.RNN(
                        nnx.OptimizedLSTMCell(d, h, rngs=rngs),
                        time_major=True,
                        return_carry=True,
                        rngs=rngs,
                    )
                    for d, h in zip(sizes, sizes[1:], strict=False)
                ]
            )
            self.readout = nnx.Linear(s.units, s.vocabulary, rngs=rngs)

        def __call__(self, states: Any, tokens: Any) -> Any:
            xs = self.embed(tokens) if self.embed else jax.nn.one_hot(tokens, s.vocabulary)
            after = []
            for layer, state in zip(self.layers, states, strict=True):
                state, xs = layer(xs, initial_carry=state)
                after.append(state)
            return tuple(after), self.readout(xs)

    graph, params, rest = nnx.split(Model(nnx.Rngs(0)), nnx.Param, ...)  # type: ignore[misc]
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.sgd(RATE))
    codes = jnp.asarray(_text(s))
    rows = codes.shape[0] // s.batch
    text = codes[: rows * s.batch].reshape(s.batch, rows).T
    steps = (rows - 1) // s.length

    def loss(params: Any, states: Any, window: Any) -> Any:
        states, logits = nnx.merge(graph, params, rest)(states, window[:-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, window[1:])
        return losses.mean(), states

    def step(params: Any, optimizer_state: Any, states: Any, n: Any) -> Any:
        window = jax.lax.dynamic_slice_in_dim(text, (n % steps) * s.length, s.length + 1)
        (value, states), grads = jax.value_and_grad(loss, has_aux=True)(params, states, window)
        updates, optimizer_state = optimizer.update(grads, optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state, states, value

    def build() -> Callable[[], None]:
        def zeros() -> Any:
            return jnp.zeros((s.batch, s.units))

        states = tuple((zeros(), zeros()) for _ in range(s.layers))
        now: tuple[Any, ...] = (params, optimizer.init(params), states)
        compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*now, 0).compile()
        n = 0

        def call() -> None:
            nonlocal now, n
            found = compiled(*now, n)
            now = tuple(found[:3])
            n += 1
            jax.block_until_ready(found)

        return call

    return Contestant(build)


def _passive(setting: Setting) -> Contestant:
    # Before PyTorch loads OpenMP: its threads then sleep while they wait.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return _pytorch(setting)


def _pytorch(setting: Setting) -> Contestant:
    import torch

    s = setting
    torch.manual_seed(0)
    embed = torch.nn.Embedding(s.vocabulary, s.embedding) if s.embedding else None
    recurrent = torch.nn.LSTM(s.embedding or s.vocabulary, s.units, s.layers)
    readout = torch.nn.Linear(s.units, s.vocabulary)
    modules = torch.nn.ModuleList([m for m in (embed, recurrent, readout) if m is not None])
    optimizer = torch.optim.SGD(modules.parameters(), lr=RATE)
    codes = torch.as_tensor(_text(s), dtype=torch.long)
    rows = codes.shape[0] // s.batch
    text = codes[: rows * s.batch].reshape(s.batch, rows).T.contiguous()
    steps = (rows - 1) // s.length

    def build() -> Callable[[], None]:
        zeros = torch.zeros(s.layers, s.batch, s.units)
        states, n = (zeros, zeros), 0

        def call() -> None:
            nonlocal states, n
            window = text[(n % steps) * s.length :][: s.length + 1]
            n += 1
            tokens = window[:-1]
            xs = (
                embed(tokens)
                if embed
                else torch.nn.functional.one_hot(tokens, s.vocabulary).float()
            )
            optimizer.zero_grad()
            ys, after = recurrent(xs, states)
            states = (after[0].detach(), after[1].detach())
            loss = torch.nn.functional.cross_entropy(
                readout(ys).reshape(-1, s.vocabulary), window[1:].reshape(-1)
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(modules.parameters(), CLIP)
            optimizer.step()
            loss.item()

        return call

    return Contestant(build)
