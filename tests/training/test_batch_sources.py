"""Where batches come from: arrays, mapped files, streams; read ahead, resumed bit for bit, refused."""

import itertools
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import slow
from training.problems import leaves, numbers, run

from lstm_jax.training import (
    ManyShapesWarning,
    Problem,
    ProblemError,
    RunError,
    data_mesh,
    read_ahead,
)
from lstm_jax.training.step_programs import MOST_PROGRAMS
from lstm_jax.training.stream_source import StreamSource
from lstm_jax.training.train_loop import require_same_shapes

SHAPE = (4, 3)
streamed = Problem(
    init=lambda key: {"w": jax.random.normal(key, (3,))},
    loss=lambda params, carry, batch, key: (
        ((params["w"] - batch.mean(0)) ** 2).sum(),
        (carry, {"sum": batch.sum()}),
    ),
    batch_axes=0,
)
EACH = {"log_every": 1, "checkpoint_every": 2}


def batches(count=5, seed=0, shape=SHAPE):
    drawn = np.random.default_rng(seed)
    return [drawn.standard_normal(shape).astype(np.float32) for _ in range(count)]


class Loader:
    """A loader of a user, which begins anew with each loop over it."""

    def __iter__(self):
        return iter(batches())


class WithState:
    """An iterator that can say where it is."""

    def __init__(self):
        self.n = np.int64(0)

    def __iter__(self):
        return self

    def __next__(self):
        self.n += 1
        return batches(1, int(self.n))[0]

    def get_state(self):
        return {"n": self.n}

    def set_state(self, state):
        self.n = np.int64(state["n"])


def of_epoch(epoch):
    return (batches(3, epoch)[n] for n in range(3))


def grain_map():
    import grain

    source = np.concatenate(batches())
    return grain.MapDataset.source(source).seed(1).shuffle().batch(4)


def grain_iter():
    import grain

    return grain_map().repeat().to_iter_dataset(grain.ReadOptions(2, 2))


def grain_loader():
    import grain

    source = np.concatenate(batches())
    sampler = grain.samplers.IndexSampler(20, seed=3, shuffle=True, num_epochs=2)
    return grain.DataLoader(
        data_source=source, sampler=sampler, operations=[grain.transforms.Batch(4)]
    )


def mapped(folder):
    path = folder / "rows.npy"
    np.save(path, np.concatenate(batches()))
    return np.load(path, mmap_mode="r")


picked = streamed._replace(
    batch=lambda data, step, key: data[
        jax.random.randint(jax.random.fold_in(key, step), (4,), 0, len(data))
    ]
)
KINDS = {
    "iterable": lambda folder: Loader(),
    "factory": lambda folder: lambda: iter(batches()),
    "of_epoch": lambda folder: of_epoch,
    "with_state": lambda folder: WithState(),
    "grain.MapDataset": lambda folder: grain_map(),
    "grain.IterDataset": lambda folder: grain_iter(),
    "grain.DataLoader": lambda folder: grain_loader(),
    "memmap": mapped,
}


def only(kind):
    if kind.startswith("grain"):
        pytest.importorskip("grain")


@pytest.mark.parametrize(
    "kind", [kind if kind in ("with_state", "grain.MapDataset") else slow(kind) for kind in KINDS]
)
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, kind):
    only(kind)
    problem = picked if kind == "memmap" else streamed
    made = KINDS[kind]
    whole = run(14, problem, data=made(tmp_path), **EACH)
    cut = run(7, problem, data=made(tmp_path), folder=tmp_path / "run", **EACH)
    cut = run(14, problem, data=made(tmp_path), folder=tmp_path / "run", resume=True, **EACH)
    assert numbers(cut.log) == numbers(whole.log)
    for came, wanted in zip(leaves(cut.state), leaves(whole.state), strict=True):
        np.testing.assert_array_equal(came, wanted)
    assert not [one for one in threading.enumerate() if one.name == "read ahead"]


@pytest.mark.parametrize(
    ("data", "epochs"),
    [(Loader(), [batches()] * 3), (of_epoch, [batches(3, n) for n in range(4)])],
)
def test_each_batch_is_taken_once_and_in_order_epoch_after_epoch(data, epochs):
    seen = [entry["sum"] for entry in run(11, streamed, data=data, log_every=1).log]
    wanted = [batch.sum() for batch in itertools.chain(*epochs)][:11]
    np.testing.assert_allclose(seen, wanted, rtol=1e-5)


def test_a_dataset_of_grain_is_shuffled_anew_in_each_epoch():
    pytest.importorskip("grain")
    seen = [entry["sum"] for entry in run(10, streamed, data=grain_map(), log_every=1).log]
    assert not np.allclose(seen[:5], seen[5:])
    np.testing.assert_allclose(sum(seen[:5]), sum(seen[5:]), rtol=1e-4)


def test_rows_of_a_file_are_those_of_the_array(tmp_path):
    data = mapped(tmp_path)
    of_file, of_array = (run(6, picked, data=x, log_every=1) for x in (data, np.array(data)))
    assert numbers(of_file.log) == numbers(of_array.log)
    for came, wanted in zip(leaves(of_file.state), leaves(of_array.state), strict=True):
        np.testing.assert_array_equal(came, wanted)


def test_a_loader_may_use_its_memory_again():
    def again():
        buffer = np.zeros(SHAPE, np.float32)
        for n in range(8):
            buffer[:] = n
            yield buffer

    seen = [entry["sum"] for entry in run(8, streamed, data=again, log_every=1).log]
    assert seen == [12.0 * n for n in range(8)]


def test_no_more_is_read_ahead_than_two_batches():
    given = []

    def counted():
        for batch in batches(20):
            given.append(1)
            yield batch

    run(5, streamed, data=counted, progress=False)
    # One that waits to be put, besides.
    assert len(given) <= 5 + 3


def test_an_error_of_the_data_comes_out_as_it_is(tmp_path):
    def broken():
        yield from batches(3)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        run(9, streamed, data=broken, folder=tmp_path, checkpoint_every=1)
    assert not [one for one in threading.enumerate() if one.name == "read ahead"]
    assert (tmp_path / "checkpoints" / "3").is_dir()


def test_a_process_with_fewer_samples_has_batches_of_other_shapes(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    found = []
    for data in (batches(3), batches(3, seed=1), [*batches(2), batches(1, shape=(3, 3))[0]]):
        source = StreamSource(streamed, lambda data=data: iter(data), None, False)
        for _ in range(2):
            source.take()
        early = source.shapes()
        source.take()
        found.append((early, source.shapes()))
        source.close()
    assert found[0] == found[1] and found[2][0] == found[0][0]
    require_same_shapes(found[0][1], found[1][1])
    with pytest.raises(ProblemError, match="one shape, .* got others in process 0 than"):
        require_same_shapes(found[0][1], found[2][1])


def test_a_run_ends_while_its_data_wait_for_more(monkeypatch):
    monkeypatch.setattr(read_ahead, "PATIENCE", 0.1)
    more = threading.Event()

    def waits():
        yield from batches(3)
        more.wait(60)

    try:
        assert run(3, streamed, data=waits, log_every=1).log[-1]["step"] == 3
    finally:
        more.set()


def test_batches_of_several_shapes_have_a_program_each():
    shapes = [(4, 3), (2, 3), (4, 3), (8, 3)] * 2
    traced = []

    def loss(params, carry, batch, key):
        traced.append(batch.shape)
        return streamed.loss(params, carry, batch, key)

    data = [batches(1, n, shape)[0] for n, shape in enumerate(shapes)]
    fitted = run(8, streamed._replace(loss=loss), data=lambda: iter(data), log_every=1)
    np.testing.assert_allclose(
        [entry["sum"] for entry in fitted.log], [x.sum() for x in data], rtol=1e-5
    )
    assert sorted(set(traced)) == [(2, 3), (4, 3), (8, 3)] and len(traced) == 3
    assert fitted.compile_seconds > 0


def test_too_many_shapes_are_told_and_their_programs_forgotten(monkeypatch):
    monkeypatch.setattr("lstm_jax.training.step_programs.MOST_PROGRAMS", 2)
    data = [np.ones((n, 3), np.float32) for n in range(1, 5)]
    with pytest.warns(ManyShapesWarning, match="got one more: an array \\[3, 3\\]") as told:
        run(4, streamed, data=lambda: iter(data))
    assert len(told) == 1 and MOST_PROGRAMS == 32


def test_on_a_mesh_the_samples_are_spread_and_the_numbers_the_same():
    alone = run(5, streamed, data=Loader(), log_every=1)
    mesh = data_mesh(jax.devices()[:1])
    spread = run(5, streamed, data=Loader(), log_every=1, mesh=mesh)
    assert numbers(alone.log) == numbers(spread.log)
    placed = [jax.device_put(x, jax.NamedSharding(mesh, jax.P("data"))) for x in batches()]
    assert numbers(run(5, streamed, data=lambda: placed, log_every=1, mesh=mesh).log) == numbers(
        alone.log
    )


def test_all_seeds_of_a_sweep_see_the_same_batches():
    fitted = run(3, streamed, data=Loader(), seed=(1, 2), log_every=1)
    for entry, batch in zip(fitted.log, batches(), strict=False):
        np.testing.assert_allclose(entry["sum"], [batch.sum()] * 2, rtol=1e-5)


def test_a_sweep_goes_on_with_its_stream(tmp_path):
    words = {"data": of_epoch, "seed": (1, 2), "log_every": 1}
    whole = run(7, streamed, **words)
    run(4, streamed, folder=tmp_path, **words)
    again = run(7, streamed, folder=tmp_path, resume=True, **words)
    assert numbers(again.log) == numbers(whole.log)


def test_the_state_of_a_stream_is_under_the_settings_of_jax_of_the_run(x64):
    doubles = [np.ones((4, 3)) / 3]
    fitted = run(2, streamed, data=lambda: iter(doubles * 3), log_every=1)
    assert fitted.log[1]["sum"] == pytest.approx(4.0, abs=1e-14)


def wrong_structure():
    yield np.ones(SHAPE, np.float32)
    yield {"x": np.ones(SHAPE, np.float32)}


def wrong_dtype():
    yield np.ones(SHAPE, np.float32)
    yield np.ones(SHAPE, np.int32)


def unlike(first, second):
    raise AssertionError


@pytest.mark.filterwarnings("ignore:Python iterable type:DeprecationWarning")  # of JAX
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (iter(batches(2)), "a batch for each step, got 2 from a list_iterator, which cannot begin"),
        (lambda: iter([]), "at least one batch in the function <lambda>, got none"),
        (lambda: 3, "<lambda> to give an iterable of batches, got int"),
        (unlike, "unlike without arguments, or of the epoch, got first, second"),
        (wrong_structure, "batches like the first, PyTreeDef.*, got PyTreeDef"),
        (wrong_dtype, r"an array of float32 with 2 axes.*, got int32\[4, 3\]"),
        (lambda: iter(["a", "b"]), "each batch of the function <lambda> with arrays or numbers"),
        ("abc", "expected data with arrays or numbers, got a str"),
        ({"x": iter(batches())}, "expected data with arrays or numbers, got a list_iterator in x"),
    ],
)
def test_what_gives_no_batches_is_refused_in_one_sentence(data, message):
    with pytest.raises((RunError, ProblemError), match=message):
        run(6, streamed, data=data)


def test_a_function_that_gives_its_iterator_twice_is_told_what_it_does():
    one = iter(batches(2))
    with pytest.raises(RunError, match="to begin again in epoch 1, got no batch. A function that"):
        run(6, streamed, data=lambda: one)


def random_order():
    drawn = np.random.default_rng()
    return iter([drawn.standard_normal(SHAPE).astype(np.float32) for _ in range(9)])


@pytest.mark.parametrize(
    ("first", "again", "message"),
    [
        (
            lambda: iter(batches(9)),
            lambda: iter(batches(9)),
            "can begin again, to go on after batch 3 of the run, got a list_iterator",
        ),
        (
            lambda: random_order,
            lambda: random_order,
            "expected batch 3 of epoch 0 as in the run to resume, got another from the function",
        ),
        (
            lambda: lambda: iter(batches(9)),
            lambda: lambda: iter(batches(2)),
            "at least 3 batches in epoch 0, those of the run to resume, got 2",
        ),
        (lambda: WithState(), lambda: Loader(), "an iterator with set_state, as in the run"),
        (lambda: Loader(), lambda: np.ones(SHAPE, np.float32), "Settings mismatch: expected data"),
    ],
)
def test_a_run_that_cannot_go_on_with_its_data_says_so(tmp_path, first, again, message):
    run(3, streamed, data=first(), folder=tmp_path)
    with pytest.raises((RunError, RuntimeError), match=message):
        run(6, streamed, data=again(), folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    "batch",
    [
        lambda data, step, key: data,
        lambda data, step, key: jnp.asarray(data)[:4],
        lambda data, step, key: np.asarray(data)[:4],
        lambda data, step, key: jnp.take(data, jnp.arange(4), axis=0),
    ],
)
def test_a_batch_that_would_copy_a_whole_file_is_refused(tmp_path, batch):
    with pytest.raises(
        ProblemError, match="to pick rows of a memory-mapped array, data.rows., got"
    ):
        run(2, streamed._replace(batch=batch), data={"x": mapped(tmp_path)}["x"])


def test_seeds_that_would_each_read_a_file_are_refused(tmp_path):
    with pytest.raises(RunError, match="expected one seed for memory-mapped arrays"):
        run(2, picked, data=mapped(tmp_path), seed=(1, 2))


def anonymous_memory():
    """Bytes of the process that are no file's."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith("RssAnon:"):
            return int(text.split()[1]) * 1024
    raise AssertionError("no RssAnon")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_large_file_is_trained_on_without_room_for_it(tmp_path):
    rows = 2**23
    data = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(rows, 3))
    before, seen = anonymous_memory(), []

    def look(params):
        seen.append(anonymous_memory() - before)
        return {"x": 0.0}

    words = {"evaluate": look, "evaluate_every": 2}
    run(4, picked, data=data, folder=tmp_path / "of_file", **words)
    assert max(seen) < data.nbytes / 4 and data.nbytes > 100e6
    seen.clear()
    run(4, picked, data=np.array(data), **words)
    assert max(seen) > data.nbytes
