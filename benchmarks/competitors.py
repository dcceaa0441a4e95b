"""The competitors of an unroll in JAX, each written in its library's usual form and jitted as a whole.

    run(params, xs, state0) -> hs          xs[T, B, D], hs[T, B, H], time first
    gradient = ∂⟨hs, weight⟩/∂(params, xs, state0)       weight[T, B, H]

Every competitor starts from zeros and draws its parameters itself; their values do not change the time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.cases import Case, case_from
from benchmarks.device_and_precision import dtype_of
from benchmarks.timed_program import Contestant, NotOffered, jitted

OURS = "lstm_jax"
PYTORCH = "pytorch"


class Network(NamedTuple):
    """A competitor's network: ``run(params, xs, state0) -> hs`` and what to call it with."""

    run: Callable[[Any, Any, Any], Any]
    params: Any
    state0: Any


def lstm_jax_cell(case: Case) -> Any:
    """The standard cell of `lstm_jax`."""
    import lstm_jax

    make: dict[str, Any] = {"lstm": lstm_jax.lstm, "gru": lstm_jax.gru, "rnn": lstm_jax.rnn}
    return make[case.cell](case.shape.input_size, case.shape.hidden_size)


def lstm_jax_network(case: Case, backend: str = "auto") -> Network:
    """`lstm_jax.unroll`, by the hand-derived rule."""
    import jax

    import lstm_jax

    cell = lstm_jax_cell(case)

    def run(params: Any, xs: Any, state0: Any) -> Any:
        return lstm_jax.unroll(cell, params, xs, state0, backend=backend)[1]

    return Network(run, cell.init(jax.random.key(0)), cell.initial_state(case.shape.batch))


def lstm_jax_cudnn_network(case: Case) -> Network:
    """`lstm_jax.unroll` by NVIDIA's kernel."""
    if case.cell != "lstm" or dtype_of(case.precision) != "float32":
        raise NotOffered("JAX has NVIDIA's kernel for the LSTM in float32 alone")
    return lstm_jax_network(case, backend="cudnn")


def lstm_jax_loop_network(case: Case) -> Network:
    """`lstm_jax.unroll` by the loop in XLA."""
    return lstm_jax_network(case, backend="loop")


def plain_step(case: Case) -> Callable[[Any, Any, Any], Any]:
    """The equations of one step, written down: ``(params, state, x) -> state, h``."""
    import jax
    import jax.numpy as jnp

    def lstm_step(params: Any, state: Any, x: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(x @ params.w_x + h @ params.w_h + params.b, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def gru_step(params: Any, state: Any, x: Any) -> Any:
        (h,) = state
        x_r, x_u, x_n = jnp.split(x @ params.w_x + params.b, 3, axis=-1)
        h_r, h_u, h_n = jnp.split(h @ params.w_h, 3, axis=-1)
        r, u = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_u + h_u)
        h = (1 - u) * jnp.tanh(x_n + r * (h_n + params.b_hn)) + u * h
        return (h,), h

    def rnn_step(params: Any, state: Any, x: Any) -> Any:
        h = jnp.tanh(x @ params.w_x + state[0] @ params.w_h + params.b)
        return (h,), h

    return {"lstm": lstm_step, "gru": gru_step, "rnn": rnn_step}[case.cell]


def plain_scan_network(case: Case) -> Network:
    """The equations written down inside `jax.lax.scan`, differentiated by JAX.

    The parameters are those of `lstm_jax`, layout and values, so that the two can be compared.
    """
    import jax

    reference, step = lstm_jax_network(case), plain_step(case)

    def run(params: Any, xs: Any, state0: Any) -> Any:
        return jax.lax.scan(lambda state, x: step(params, state, x), state0, xs)[1]

    return Network(run, reference.params, tuple(reference.state0))


def flax_linen_network(case: Case) -> Network:
    """``nn.RNN`` over ``OptimizedLSTMCell``, ``GRUCell`` or ``SimpleCell``, time first."""
    import jax
    from flax import linen

    shape = case.shape
    kind = {"lstm": linen.OptimizedLSTMCell, "gru": linen.GRUCell, "rnn": linen.SimpleCell}
    rnn = linen.RNN(kind[case.cell](shape.hidden_size), time_major=True)
    xs, _, h0 = arrays(case)
    state0 = (h0, h0) if case.cell == "lstm" else h0
    params = jax.jit(rnn.init)(jax.random.key(0), xs)

    def run(params: Any, xs: Any, state0: Any) -> Any:
        return rnn.apply(params, xs, initial_carry=state0)

    return Network(run, params, state0)


def flax_nnx_network(case: Case) -> Network:
    """``nnx.RNN`` over ``OptimizedLSTMCell``, ``GRUCell`` or ``SimpleCell``, time first."""
    from flax import nnx

    shape = case.shape
    kind = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "rnn": nnx.SimpleCell}[case.cell]
    cell = kind(shape.input_size, shape.hidden_size, rngs=nnx.Rngs(0))
    graph, params = nnx.split(nnx.RNN(cell, time_major=True, rngs=False))
    _, _, h0 = arrays(case)

    def run(params: Any, xs: Any, state0: Any) -> Any:
        return nnx.merge(graph, params)(xs, initial_carry=state0)

    return Network(run, params, (h0, h0) if case.cell == "lstm" else h0)


def equinox_network(case: Case) -> Network:
    """``eqx.nn.LSTMCell`` or ``GRUCell``, mapped over the batch inside `jax.lax.scan`."""
    import equinox
    import jax

    if case.cell == "rnn":
        raise NotOffered("Equinox has no vanilla RNN cell")
    shape = case.shape
    kind = {"lstm": equinox.nn.LSTMCell, "gru": equinox.nn.GRUCell}[case.cell]
    params = kind(shape.input_size, shape.hidden_size, key=jax.random.key(0))
    _, _, h0 = arrays(case)

    def run(params: Any, xs: Any, state0: Any) -> Any:
        def step(state: Any, x: Any) -> Any:
            state = jax.vmap(params)(x, state)
            return state, state[0] if case.cell == "lstm" else state

        return jax.lax.scan(step, state0, xs)[1]

    return Network(run, params, (h0, h0) if case.cell == "lstm" else h0)


def haiku_network(case: Case) -> Network:
    """``hk.dynamic_unroll`` over ``hk.LSTM``, ``hk.GRU`` or ``hk.VanillaRNN`` (which has ReLU, not tanh)."""
    import haiku
    import jax

    kind = {"lstm": haiku.LSTM, "gru": haiku.GRU, "rnn": haiku.VanillaRNN}[case.cell]

    def network(xs: Any, state0: Any) -> Any:
        return haiku.dynamic_unroll(kind(case.shape.hidden_size), xs, state0)[0]

    transformed: Any = haiku.without_apply_rng(haiku.transform(network))
    xs, _, h0 = arrays(case)
    state0 = haiku.LSTMState(h0, h0) if case.cell == "lstm" else h0
    params = jax.jit(transformed.init)(jax.random.key(0), xs, state0)
    return Network(transformed.apply, params, state0)


NETWORKS: dict[str, Callable[[Case], Network]] = {
    OURS: lstm_jax_network,
    "plain scan": plain_scan_network,
    "flax linen": flax_linen_network,
    "flax nnx": flax_nnx_network,
    "equinox": equinox_network,
    "haiku": haiku_network,
}
JAX_PEERS = tuple(name for name in NETWORKS if name != OURS)
ON_GPU: dict[str, Callable[[Case], Network]] = {
    "lstm_jax, cudnn": lstm_jax_cudnn_network,
}
"""On a GPU alone, for the cases for which NVIDIA's kernel exists."""
ON_CPU: dict[str, Callable[[Case], Network]] = {
    "lstm_jax, loop": lstm_jax_loop_network,
}
"""On a CPU alone: the loop, because the default is the compiled kernel."""
NAMES = (OURS, *ON_CPU, *JAX_PEERS, PYTORCH)
GPU_NAMES = (OURS, *ON_GPU, *JAX_PEERS, PYTORCH)


def arrays(case: Case) -> tuple[Any, Any, Any]:
    """In the case's dtype: normal xs[T, B, D] and weight[T, B, H], the same for all; zeros[B, H]."""
    import jax
    import jax.numpy as jnp

    s, dtype = case.shape, jnp.dtype(dtype_of(case.precision))
    keys = jax.random.split(jax.random.key(1))
    xs = jax.random.normal(keys[0], (s.time, s.batch, s.input_size), dtype)
    weight = jax.random.normal(keys[1], (s.time, s.batch, s.hidden_size), dtype)
    return xs, weight, jnp.zeros((s.batch, s.hidden_size), dtype)


def network_of(name: str, case: Case) -> Network:
    """The competitor's network, its parameters and state in the case's dtype."""
    import jax
    import jax.numpy as jnp

    dtype = jnp.dtype(dtype_of(case.precision))

    def cast(leaf: Any) -> Any:
        floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if floating else leaf

    network = {**NETWORKS, **ON_GPU, **ON_CPU}[name](case)
    return Network(network.run, *jax.tree.map(cast, network[1:]))


def contestant(name: str, arguments: dict[str, Any]) -> Contestant:
    """The competitor ``name`` on a case, ready to compile."""
    case = case_from(arguments)
    if name == PYTORCH:
        from benchmarks.pytorch_competitor import pytorch_contestant

        return pytorch_contestant(case)
    import jax

    network = network_of(name, case)
    xs, weight, _ = arrays(case)
    if case.pass_ == "forward":
        return jitted(network.run, network.params, xs, network.state0)
    return jitted(
        jax.grad(loss_of(network), argnums=(0, 1, 2)), network.params, xs, network.state0, weight
    )


def loss_of(network: Network) -> Callable[[Any, Any, Any, Any], Any]:
    """⟨hs, weight⟩ as a function of parameters, inputs, starting state and weight."""
    import jax.numpy as jnp

    def loss(params: Any, xs: Any, state0: Any, weight: Any) -> Any:
        return jnp.vdot(network.run(params, xs, state0), weight)

    return loss
