"""Compile the kernel's own tests for each instruction set and run them; no JAX is needed.

python tests/native/run.py sanitize   under the address and undefined-behaviour sanitizers, on this machine
python tests/native/run.py threads    under the thread sanitizer
python tests/native/run.py emulate    what QEMU emulates: x86-64 but AVX-512, and aarch64 by a cross compiler
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / "src" / "lstm_jax" / "backends" / "cpu_kernel"
STRICT = ["-Werror", "-Wno-psabi"]
SANITIZERS = {
    "sanitize": "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all".split(),
    "threads": "-O1 -g -fsanitize=thread".split(),
}
PACKAGES = "apt install qemu-user g++-aarch64-linux-gnu"


def load_build():
    spec = spec_from_file_location("cpu_kernel_build", FOLDER / "build.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


def present(instruction_set):
    """Whether this machine can run it, by Linux's own account."""
    known = Path("/proc/cpuinfo")
    flags = set(known.read_text("utf-8").split()) if known.exists() else set()
    needed = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512dq", "avx512vl"}}
    return needed.get(instruction_set, set()) <= flags


def plan(mode):
    """``(instruction set, compiler, more flags, command before the program)``; None where nothing runs it."""
    system = next(build.compilers(os.environ), None)
    machine = "aarch64" if build.platform.machine().lower() in ("aarch64", "arm64") else "x86_64"
    if mode in SANITIZERS:
        if system is None:
            sys.exit("No C++ compiler: expected $CXX, c++, g++ or clang++, got none.")
        for chosen in build.INSTRUCTION_SETS[machine]:
            runs = present(chosen.name)
            yield chosen, system, SANITIZERS[mode], [] if runs else None
        return
    for machine_there, compiler, emulator in (
        ("x86_64", system if machine == "x86_64" else ["x86_64-linux-gnu-g++"], "qemu-x86_64"),
        ("aarch64", system if machine == "aarch64" else ["aarch64-linux-gnu-g++"], "qemu-aarch64"),
    ):
        if compiler is None or shutil.which(compiler[0]) is None or shutil.which(emulator) is None:
            sys.exit(
                f"No emulator for {machine_there}: expected {emulator} and a compiler. Do {PACKAGES}."
            )
        for chosen in build.INSTRUCTION_SETS[machine_there]:
            before = None if chosen.name == "avx512" else [emulator, "-cpu", "max"]
            yield chosen, compiler, ["-static"], before


def run_one(chosen, compiler, more, before, work):
    """What to print of one program, and whether it passed."""
    if before is None:
        return f"{chosen.name}: not tested here, nothing runs it", True
    began = time.monotonic()
    program = str(Path(work, f"{chosen.name}-{Path(compiler[0]).name}"))
    sources = [str(HERE / "cells_test.cc"), str(build.NATIVE / "instance.cc")]
    words = [
        *compiler,
        *build.FLAGS,
        *STRICT,
        *more,
        *chosen.all_flags(),
        f"-I{build.NATIVE}",
        *sources,
    ]
    made = subprocess.run([*words, "-pthread", "-o", program], capture_output=True, text=True)
    if made.returncode:
        return f"{chosen.name}: {made.stderr}", False
    compiled = time.monotonic()
    done = subprocess.run([*before, program], capture_output=True, text=True, timeout=900)
    where = f" by {before[0]}" if before else ""
    return (
        f"{done.stdout}{done.stderr}{chosen.name}{where}: compiled in {compiled - began:.0f} s, "
        f"ran in {time.monotonic() - compiled:.0f} s, exit {done.returncode}",
        done.returncode == 0,
    )


def main(mode):
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda one: run_one(*one, work), plan(mode)))
    for said, _ in found:
        print(said)
    return 0 if all(passed for _, passed in found) else 1


if __name__ == "__main__":
    if sys.argv[1:] not in (["sanitize"], ["threads"], ["emulate"]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
