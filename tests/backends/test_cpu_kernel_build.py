"""The build of the CPU kernel: what it compiles, what it does without a compiler, and what it says then."""

import ctypes
import os
import sys
from pathlib import Path

import pytest

import lstm_jax
from lstm_jax.backends.cpu_kernel import build, library

COMPILER = next(build.compilers(os.environ), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
needs_platform = pytest.mark.skipif(
    build.this_target() is None, reason="the kernel has no such platform"
)

# As small as a kernel can be: a table for each instruction set, and one function that adds them up.
INSTANCE = """
#define JOIN(a, b) a##b
#define NAMED(isa) JOIN(table_, isa)
extern "C" int NAMED(ISA)() { return VECTOR_BYTES; }
"""
CALLS = """
#include "xla/ffi/api/ffi.h"
#include "ours.h"
extern "C" int table_wide();
extern "C" int table_plain();
extern "C" __attribute__((visibility("default"))) int answer() {
  return table_wide() + table_plain() + OURS + XLA;
}
"""


@pytest.fixture
def tiny(tmp_path):
    """A kernel of a few lines, and what builds it into a folder of its own."""
    native, headers, out = (tmp_path / name for name in ("native", "headers", "out"))
    (headers / "xla/ffi/api").mkdir(parents=True)
    (headers / "xla/ffi/api/ffi.h").write_text("#define XLA 1000\n")
    native.mkdir()
    out.mkdir()
    (native / "instance.cc").write_text(INSTANCE)
    (native / "calls.cc").write_text(CALLS)
    (native / "ours.h").write_text("#define OURS 200\n")
    wide = build.InstructionSet("wide", ("-O1",), 32, 3)
    units = [
        build.Unit("wide", "instance.cc", tuple(wide.all_flags())),
        build.Unit("plain", "instance.cc", tuple(build.PLAIN.all_flags())),
        build.Unit("calls", "calls.cc", ()),
    ]

    def make(**changed):
        environment = {**os.environ, "CXXFLAGS": "-O0", **changed}
        environment.pop(build.SWITCH, None) if build.SWITCH not in changed else None
        return build.build_library(
            out, native=native, units=units, headers=headers, environment=environment
        )

    return native, out, make


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@needs_compiler
@needs_platform
def test_it_is_built_once_and_again_when_a_source_changed(tiny):
    native, out, make = tiny
    first = make()
    assert (first.reason, first.compiled) == ("", True)
    assert ctypes.CDLL(str(first.library)).answer() == 1248
    assert files(out) == sorted([first.library.name, build.stamp_of(first.library).name])
    assert make() == (first.library, "", False)
    # A change that only a header has, and one that does not compile.
    (native / "ours.h").write_text("#define OURS 201\n")
    assert make().compiled
    (native / "ours.h").write_text("#define OURS no\n")
    broken = make()
    assert broken.library is None
    # A library of other sources would be called with other arguments.
    assert files(out) == ["why_not.txt"]
    assert "expected" in broken.reason and "to compile the kernel, got:" in broken.reason
    assert (out / "why_not.txt").read_text() == broken.reason + "\n"


@needs_platform
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({build.SWITCH: "1"}, "switched off"),
        ({"CXX": "no-such-compiler"}, "expected no-such-compiler to run"),
        ({"CXX": sys.executable}, "The compiler failed"),
    ],
)
def test_without_a_compiler_it_says_why(tiny, environment, said):
    _, out, make = tiny
    for name in ("_cpu_kernel.native.so", "_cpu_kernel.native.dylib", "_cpu_kernel.native.dll"):
        (out / name).write_text("of an earlier build")
    found = make(**environment)
    assert found.library is None and said in found.reason and found.reason.count("\n") == 0
    assert (out / "why_not.txt").read_text() == found.reason + "\n"
    ending = build.TARGETS[build.this_target()].ending
    assert not (out / f"_cpu_kernel.native{ending}").exists()


def test_no_compiler_at_all_and_no_headers_are_reasons(tiny, monkeypatch):
    _, _, make = tiny
    if build.this_target() is not None:
        monkeypatch.setattr(build, "zig", lambda target: None)
        assert "No C++ compiler" in make(PATH="", CXX="").reason
    monkeypatch.setattr(build, "this_target", lambda: None)
    assert "No kernel for this platform" in make().reason


def test_no_headers_are_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "headers_folder", lambda: None)
    monkeypatch.setattr(build, "this_target", lambda: "x86_64-linux")
    assert "No headers of XLA" in build.build_library(tmp_path, environment={}).reason


def test_a_folder_that_is_not_there_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "this_target", lambda: None)
    found = build.build_library(tmp_path / "none", environment={})
    assert found.library is None and found.reason


@pytest.mark.parametrize(
    ("machine", "system", "named", "target"),
    [
        ("x86_64", "linux", "linux-x86_64", "x86_64-linux"),
        ("aarch64", "linux", "linux-aarch64", "aarch64-linux"),
        ("arm64", "darwin", "macosx-11.0-arm64", "aarch64-macos"),
        ("AMD64", "win32", "win-amd64", "x86_64-windows"),
        ("ARM64", "win32", "win-amd64", "x86_64-windows"),
        ("x86_64", "darwin", "macosx-10.9-x86_64", None),
        ("riscv64", "linux", "linux-riscv64", None),
        ("AMD64", "win32", "win32", None),
    ],
)
def test_platforms(monkeypatch, machine, system, named, target):
    monkeypatch.setattr(build.platform, "machine", lambda: machine)
    monkeypatch.setattr(build.sysconfig, "get_platform", lambda: named)
    monkeypatch.setattr(build.sys, "platform", system)
    assert build.this_target() == target


@pytest.mark.parametrize("machine", build.INSTRUCTION_SETS)
def test_every_instruction_set_has_a_table_of_its_own(machine):
    units = build.compilations(machine)
    assert len({unit.name for unit in units}) == len(units)
    assert [unit.source for unit in units].count("calls.cc") == 1
    assert {unit.name for unit in units} >= {"plain", "calls"}
    for unit in units:
        assert (build.NATIVE / unit.source).exists(), unit
        named = [flag for flag in unit.flags if flag.startswith("-DISA=")]
        assert named == ([] if unit.name == "calls" else [f"-DISA={unit.name}"])


def test_the_headers_are_those_of_jax():
    import jax

    assert Path(build.headers_folder()).samefile(jax.ffi.include_dir())


def test_what_is_in_use_is_told_in_words(monkeypatch):
    monkeypatch.setenv("LSTM_JAX_THREADS", "1")
    monkeypatch.setattr(library, "status", lambda: library.Status(True, "avx2", ""))
    first = lstm_jax.show_backends().splitlines()[0]
    assert first.startswith("On a CPU: the compiled kernel (avx2, up to 1 thread); ")
    monkeypatch.delenv("LSTM_JAX_THREADS")
    assert f"up to {library.most_threads()} thread" in lstm_jax.show_backends()
    monkeypatch.setattr(library, "status", lambda: library.Status(False, None, "No compiler: x."))
    told = lstm_jax.show_backends().splitlines()
    assert told[0] == "On a CPU: the loop in XLA, without the compiled kernel. No compiler: x."
    assert len(told) == 2
