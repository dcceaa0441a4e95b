"""The CPU kernel among others: threads, processes, devices, forks, signals, few cores and busy ones."""

import os
import signal
import sys
import time

import pytest
from kernel_programs import outcome, run, start

from lstm_jax.backends.cpu_kernel import library

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not library.status().available, reason=f"no kernel: {library.status().reason}"
    ),
]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for cores")

MANY = """
for sizes in SIZES:
    gradient, arguments = problem(sizes)
    first = gradient(*arguments)
    same(first, problem(sizes, "loop")[0](*arguments))
    for _ in range(2000 // sizes[3]):
        assert bits(gradient(*arguments)) == bits(first)
print(hash(bits(first)))
"""


def test_two_programs_at_once():
    both = [start(MANY) for _ in range(2)]
    try:
        assert outcome(both[0]) == outcome(both[1])
    finally:
        for program in both:
            program.kill()


def test_eight_threads_at_once():
    run("""
for sizes in SIZES:
    gradient, arguments = problem(sizes)
    alone = bits(gradient(*arguments))
    ready, right = threading.Barrier(8), []
    def work():
        ready.wait()
        right.append(all([bits(gradient(*arguments)) == alone for _ in range(1500 // sizes[3])]))
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert right == [True] * 8
""")


def test_four_devices():
    """Rows divided between devices by `jax.shard_map`; then each device with a call of its own, at once."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    program = """
from jax.sharding import NamedSharding, PartitionSpec as P
devices = jax.devices()
assert len(devices) == 4
sizes = SIZES[0]
gradient, (params, xs) = problem(sizes)
expected = gradient(params, xs)
same(expected, problem(sizes, "loop")[0](params, xs))

cell = lstm_jax.lstm(*sizes[2:])
mesh = jax.make_mesh((4,), ("data",))
apart = jax.shard_map(lambda params, xs: lstm_jax.unroll(cell, params, xs, backend="cpu_kernel")[1],
                      mesh=mesh, in_specs=(P(), P(None, "data")), out_specs=P(None, "data"))
split = jax.jit(jax.value_and_grad(lambda params, xs: (apart(params, xs) ** 2).sum(), (0, 1)))
same(split(params, jax.device_put(xs, NamedSharding(mesh, P(None, "data")))), expected)

found = {}
def work(device):
    here = jax.device_put((params, xs), device)
    for _ in range(20): found[device] = gradient(*here)
threads = [threading.Thread(target=work, args=(device,)) for device in devices]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 4
for device, value in found.items():
    assert value[0].devices() == {device} and bits(value) == bits(expected)
"""
    run(program, XLA_FLAGS=flags.strip())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork():
    """The child uses nothing of JAX; the parent goes on, also where it forks in the middle of calls."""
    run("""
gradient, arguments = problem(SIZES[0])
alone = bits(gradient(*arguments))
on, right = True, []
def work():
    while on: right.append(bits(gradient(*arguments)) == alone)
thread = threading.Thread(target=work)
for calling in (False, True):
    if calling: thread.start()
    for _ in range(5):
        child = os.fork()
        if child == 0: os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert bits(gradient(*arguments)) == alone
on = False
thread.join()
assert right and all(right)
""")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals")
def test_a_storm_of_signals():
    run("""
came = dict.fromkeys((signal.SIGALRM, signal.SIGUSR1), 0)
def count(number, frame): came[number] += 1
for number in came: signal.signal(number, count)
on = True
def others():
    while on:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.0005)
for sizes in SIZES:
    gradient, arguments = problem(sizes)
    alone = bits(gradient(*arguments))
    thread = threading.Thread(target=others)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    thread.start()
    until = time.monotonic() + 1
    while time.monotonic() < until: assert bits(gradient(*arguments)) == alone
    signal.setitimer(signal.ITIMER_REAL, 0)
    on = False
    thread.join()
    on = True
assert all(number > 100 for number in came.values()), came
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="interrupts as Ctrl-C does")
def test_ctrl_c():
    """It ends the program after the call that it falls into, as with any other computation of JAX."""
    program = start("""
# A program that a shell starts in the background would not hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)
gradient, arguments = problem(SIZES[0])
many = jax.jit(lambda params, xs: jax.lax.fori_loop(
    0, 1000, lambda n, total: total + gradient(params, xs * (1 + n / 1e6))[0], 0.0))
jax.block_until_ready(many(*arguments))
print("ready", flush=True)
while True: jax.block_until_ready(many(*arguments))
""")
    try:
        assert program.stdout.readline() == "ready\n"
        time.sleep(0.3)
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode in (-signal.SIGINT, 130), errors
    assert errors.strip().splitlines()[-1].startswith("KeyboardInterrupt")


DIGEST = """
for sizes in SIZES:
    gradient, arguments = problem(sizes)
    print(hash(bits(gradient(*arguments))))
"""


@linux
def test_the_bits_on_one_core_and_with_any_number_of_threads():
    cores = sorted(os.sched_getaffinity(0))
    one_core = f"import os; os.sched_setaffinity(0, {{{cores[0]}}})\n"
    told = {"one core": run(DIGEST, one_core)}
    for words in ("", "1", "3", "two", "1000000000000000000000"):
        told[words] = run(DIGEST, LSTM_JAX_THREADS=words)
    assert len(set(told.values())) == 1, told


WORKING = """
from pathlib import Path
cell = lstm_jax.lstm(64, 128)
params, xs = cell.init(jax.random.key(0), jnp.float64), jnp.ones((3000, 16, 64))
run = jax.jit(lambda params, xs: lstm_jax.unroll(cell, params, xs, backend="cpu_kernel")[1])
run = run.lower(params, xs).compile()
def ticks():
    \"\"\"Processor time of every thread.\"\"\"
    told = {path: (path / "stat").read_text().rsplit(")", 1)[1].split()
            for path in Path("/proc/self/task").iterdir()}
    return {path: int(words[11]) + int(words[12]) for path, words in told.items()}
before = ticks()
jax.block_until_ready(run(params, xs))
spent = {path: now - before.get(path, 0) for path, now in ticks().items()}
print(sum(time > 0.1 * sum(spent.values()) for time in spent.values()), sum(spent.values()))
"""


@linux
def test_no_more_cores_than_allowed():
    """How many threads work on one call of some tenths of a second, however busy the machine is."""
    cores = sorted(os.sched_getaffinity(0))
    one_core = f"import os; os.sched_setaffinity(0, {{{cores[0]}}})\n"
    found = [run(WORKING, one_core), run(WORKING, LSTM_JAX_THREADS="1"), run(WORKING)]
    working, ticks = zip(*(map(int, told.split()) for told in found), strict=True)
    assert min(ticks) > 10
    assert working[:2] == (1, 1) and 1 <= working[2] <= len(cores)


LOADED = """
import subprocess
gradient, arguments = problem((30, 8, 12, 40))
jax.block_until_ready(gradient(*arguments))
# They end by themselves, should this program not live to end them.
spin = "import time; until = time.time() + 120\\nwhile time.time() < until: pass"
busy = [subprocess.Popen([sys.executable, "-c", spin])
        for _ in range(2 * len(os.sched_getaffinity(0)))]
try:
    time.sleep(0.3)
    before = time.process_time()
    for _ in range(1000): jax.block_until_ready(gradient(*arguments))
    print(time.process_time() - before)
finally:
    for one in busy: one.kill()
"""


@linux
def test_waiting_beside_busy_programs_takes_little_processor_time():
    """A thread that spun until its partner has a core again would take whole slices, milliseconds each.

    One thread alone waits for nobody; the processor time of a call does not depend on how long it takes.
    """
    together, alone = float(run(LOADED)), float(run(LOADED, LSTM_JAX_THREADS="1"))
    assert together < 4 * alone, (together, alone)
