"""Nothing stays behind: the objects that live on after many calls are counted."""

import collections
import gc
from itertools import pairwise

import jax
import jax.numpy as jnp
import pytest
from slow_cases import slow_but

import lstm_jax
from lstm_jax.cells.cell import CELLS_KEPT
from lstm_jax.cells.gru import _gru
from lstm_jax.cells.gru_reset_before import reset_before_cell
from lstm_jax.cells.lstm import _lstm
from lstm_jax.cells.lstm_variants import variant_cell
from lstm_jax.cells.rnn import _rnn

pytestmark = pytest.mark.usefixtures("without_type_checker")

CELL = lstm_jax.lstm(2, 3)
PARAMS = CELL.init(jax.random.key(0))
XS = jnp.ones((4, 2, 2))
NET = lstm_jax.stack(lstm_jax.bidirectional(CELL))
NET_PARAMS = NET.init(jax.random.key(0))
PADDED = lstm_jax.Sequences(lengths=jnp.asarray([1, 4]))


def of_cell(params, **options):
    return lstm_jax.unroll(CELL, params, XS, **options)[1].sum()


def of_stack(params):
    return lstm_jax.unroll_stack(NET, params, XS)[1].sum()


CALLS = {
    "unroll": lambda: of_cell(PARAMS),
    "lengths": lambda: of_cell(PARAMS, sequences=PADDED),
    "gradient": lambda: jax.grad(of_cell)(PARAMS),
    "gradient in segments": lambda: jax.grad(
        lambda params: of_cell(params, backend=lstm_jax.Loop(segments=2))
    )(PARAMS),
    "gradient by autodiff": lambda: jax.grad(lambda p: of_cell(p, gradient="autodiff"))(PARAMS),
    "tangent": lambda: jax.jvp(of_cell, (PARAMS,), (PARAMS,)),
    "stack": lambda: of_stack(NET_PARAMS),
    "gradient of a stack": lambda: jax.grad(of_stack)(NET_PARAMS),
    "bptt": lambda: lstm_jax.bptt(CELL, PARAMS, XS, d_hs=jnp.ones((4, 2, 3))),
}


def count():
    gc.collect()
    return collections.Counter(
        type(one).__name__
        for one in gc.get_objects()
        # JAX keeps a dead weak reference for each eager gradient of a `jax.custom_jvp`, as of relu.
        if type(one).__name__ != "ReferenceType"
    )


@pytest.fixture
def only_new_objects():
    """Set the objects of the process apart, so that counting is fast and finds the new ones only."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", slow_but(list(CALLS), "gradient"))
def test_eager_calls_leave_nothing_behind(name, only_new_objects):
    for _ in range(3):
        CALLS[name]()
    calls, counts = 20, [count()]
    for _ in range(3):
        for _ in range(calls):
            CALLS[name]()
        counts.append(count())
    # What the calls keep grows in every window; other threads of the test run make objects now and then.
    kept = {
        kind: min(after[kind] - before[kind] for before, after in pairwise(counts))
        for kind in counts[-1]
    }
    # One object a call would be `calls` of its kind.
    assert {kind: n for kind, n in kept.items() if n >= 3 * calls // 4} == {}


def test_cells_are_kept_up_to_a_number():
    """Asked of the caches: cells made here by the thousand would push out those of other tests."""
    for cached in (_lstm, _gru, _rnn, variant_cell, reset_before_cell):
        assert cached.cache_parameters()["maxsize"] == CELLS_KEPT


def test_a_cell_that_is_made_again_is_the_same():
    for make in (lstm_jax.lstm, lstm_jax.gru, lstm_jax.rnn):
        assert make(2, 3) is make(2, 3)


def test_shapes_of_is_eval_shape():
    from lstm_jax.array_types import shapes_of

    found = shapes_of(CELL.init, jax.random.key(0))
    expected = jax.eval_shape(CELL.init, jax.random.key(0))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), found, expected)
    )
