"""Several processes decide alike: threads in their place, and a service that lives in memory."""

import threading

import jax
import pytest
from comparison import slow

from lstm_jax.training.processes import ProcessError, Processes


class Service:
    """The parts of JAX's coordination service that are used, for as many threads."""

    def __init__(self, count):
        self.said, self.barriers, self.count = {}, {}, count
        self.lock = threading.Condition()

    def key_value_set(self, key, value):
        with self.lock:
            self.said[key] = value
            self.lock.notify_all()

    def blocking_key_value_get(self, key, timeout):
        with self.lock:
            assert self.lock.wait_for(lambda: key in self.said, 20)
            return self.said[key]

    def key_value_dir_get(self, prefix):
        with self.lock:
            return [one for one in self.said.items() if one[0].startswith(prefix)]

    def wait_at_barrier(self, name, timeout):
        with self.lock:
            self.barriers[name] = self.barriers.get(name, 0) + 1
            self.lock.notify_all()
            met = self.lock.wait_for(lambda: self.barriers[name] >= self.count, timeout / 1000)
            if not met or self.barriers[name] > self.count:
                # It ends for all, those who come later too.
                self.barriers[name] = 2 * self.count
                self.lock.notify_all()
                raise RuntimeError("Barrier timed out.")


@pytest.fixture
def processes(monkeypatch):
    """Runs ``act(processes, n)`` in three threads; what each returned or raised."""
    here = threading.local()

    def run(act):
        service, found = Service(3), [None] * 3

        def one(n):
            here.n = n
            ours = Processes()
            ours._client, ours._name, ours.first, ours.several = service, "run", n == 0, True
            try:
                with ours.watched():
                    found[n] = act(ours, n)
            except Exception as error:
                found[n] = error

        threads = [threading.Thread(target=one, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return found

    monkeypatch.setattr(jax, "process_index", lambda: getattr(here, "n", 0))
    return run


def test_what_the_first_decides_holds_in_all(processes):
    def act(ours, n):
        asked = ours.each(lambda: n)
        return asked, ours.decided(lambda: {"n": n, "nan": float("inf")}), ours.decided(lambda: n)

    assert processes(act) == [(n, {"n": 0, "nan": float("inf")}, 0) for n in range(3)]


@pytest.mark.parametrize("wrong", [0, slow(2)])
def test_an_error_in_one_is_told_by_all(processes, wrong):
    def act(ours, n):
        ours.each(lambda: None)
        for turn in range(3):
            ours.each(lambda turn=turn: 1 // (n != wrong or turn < 1))
        return "went on"

    found = processes(act)
    assert isinstance(found.pop(wrong), ZeroDivisionError)
    told = f"got an error in process {wrong}: ZeroDivisionError: integer"
    assert all(isinstance(one, ProcessError) and told in str(one) for one in found)


@pytest.mark.slow
def test_an_error_between_two_meetings_is_told_at_the_next(processes):
    def act(ours, n):
        ours.each(lambda: None)
        if n == 1:
            raise KeyError("of the user")
        return ours.decided(lambda: "went on")

    first, failed, third = processes(act)
    assert isinstance(failed, KeyError)
    assert all("process 1: KeyError: 'of the user'" in str(one) for one in (first, third))


def test_one_process_has_nobody_to_ask():
    ours = Processes()
    with ours.watched():
        assert ours.each(lambda: 3) == 3 and ours.decided(object) is not None
    with pytest.raises(KeyError), ours.watched():
        ours.each(lambda: {}["x"])
