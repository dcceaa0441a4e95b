"""Compile the kernel: each source for each instruction set, and all of them into one library in this folder.

The build hook of the package loads this file where neither JAX nor the package is installed yet, so it needs
the standard library alone. After an installation without a compiler, install one and run

    python -m lstm_jax.backends.cpu_kernel.build
"""

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
NATIVE = HERE / "native"
SWITCH = "LSTM_JAX_NO_KERNEL"
"""The environment variable that switches the build off."""

FLAGS = (
    "-O3 -std=c++17 -Wall -Wextra -ffp-contract=fast -fno-math-errno -fPIC -fvisibility=hidden"
).split()


class InstructionSet(NamedTuple):
    """One instruction set for which `native/instance.cc` is compiled.

    Attributes:
        name: of the namespace and of the table.
        flags: of the compiler.
        vector_bytes: of one register.
        most_rows: rows of a product whose sums the registers hold.
    """

    name: str
    flags: tuple[str, ...]
    vector_bytes: int
    most_rows: int

    def all_flags(self) -> list[str]:
        """The flags and macros of a compilation for it."""
        return [
            *self.flags,
            f"-DISA={self.name}",
            f"-DVECTOR_BYTES={self.vector_bytes}",
            f"-DMOST_ROWS={self.most_rows}",
        ]


PLAIN = InstructionSet("plain", (), 16, 3)
AVX2 = InstructionSet("avx2", ("-mavx2", "-mfma"), 32, 3)
AVX512 = InstructionSet(
    "avx512",
    ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
    64,
    6,
)
NEON = InstructionSet("neon", (), 16, 6)
INSTRUCTION_SETS = {"x86_64": (AVX512, AVX2, PLAIN), "aarch64": (NEON, PLAIN)}


class Target(NamedTuple):
    """A platform that has a library.

    Attributes:
        machine: a key of `INSTRUCTION_SETS`.
        triple: its name for Zig's compiler, with the oldest C library that will do.
        wheel: its name in a wheel's file name.
        ending: of a library's file name.
    """

    machine: str
    triple: str
    wheel: str
    ending: str


# The oldest systems are those of jaxlib's own wheels.
TARGETS = {
    "x86_64-linux": Target("x86_64", "x86_64-linux-gnu.2.27", "manylinux_2_27_x86_64", ".so"),
    "aarch64-linux": Target("aarch64", "aarch64-linux-gnu.2.27", "manylinux_2_27_aarch64", ".so"),
    "aarch64-macos": Target("aarch64", "aarch64-macos.11.0", "macosx_11_0_arm64", ".dylib"),
    "x86_64-windows": Target("x86_64", "x86_64-windows-gnu", "win_amd64", ".dll"),
}


class Unit(NamedTuple):
    """One compilation."""

    name: str
    source: str
    flags: tuple[str, ...]


class Built(NamedTuple):
    """What came of a build.

    Attributes:
        library: the file, or None.
        reason: why there is none, in one sentence; else empty.
        compiled: whether something was compiled, or the library was there already.
    """

    library: Path | None
    reason: str
    compiled: bool


class BuildError(Exception):
    """No library, with the reason in one sentence."""


def this_target() -> str | None:
    """The key in `TARGETS` of the platform that runs this, or None if it has none."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    # On Windows and macOS Python may be of another machine than the processor.
    named = sysconfig.get_platform()
    if named in ("win-amd64", "win-arm64", "win32"):
        machine = {"win-amd64": "x86_64", "win-arm64": "aarch64"}.get(named, "x86")
    if sys.maxsize < 2**32:
        return None
    system = {"linux": "linux", "darwin": "macos", "win32": "windows"}.get(sys.platform)
    name = f"{machine}-{system}"
    return name if name in TARGETS else None


def compilations(machine: str) -> list[Unit]:
    """Every compilation of a library for a machine, the longest first."""
    return [
        *(Unit(i.name, "instance.cc", tuple(i.all_flags())) for i in INSTRUCTION_SETS[machine]),
        Unit("calls", "calls.cc", ()),
    ]


def headers_folder() -> Path | None:
    """The folder with `xla/ffi/api/ffi.h`: of the jaxlib that can be imported, or of this environment's own.

    A build in isolation sees its requirements alone, but runs the environment's Python.
    """
    found = importlib.util.find_spec("jaxlib")
    places = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    places += [Path(sysconfig.get_path(name), "jaxlib") for name in ("purelib", "platlib")]
    for place in places:
        if (place / "include" / "xla" / "ffi" / "api" / "ffi.h").is_file():
            return place / "include"
    return None


def compilers(environment: Mapping[str, str]) -> Iterator[list[str]]:
    """The system's compilers as commands: `CXX`, else those on the path."""
    named = shlex.split(environment.get("CXX", ""))
    if named:
        yield named
        return
    for name in ("c++", "g++", "clang++"):
        found = shutil.which(name, path=environment.get("PATH"))
        if found:
            yield [found]


def zig(target: str | None) -> list[str] | None:
    """Zig's compiler from the package `ziglang`, or None; for the least processor of the target."""
    if target is None or importlib.util.find_spec("ziglang") is None:
        return None
    return [sys.executable, "-m", "ziglang", "c++", "-target", TARGETS[target].triple]


def build_library(
    folder: Path = HERE,
    *,
    target: str | None = None,
    native: Path = NATIVE,
    units: Iterable[Unit] | None = None,
    headers: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Built:
    """Compile and link the library, unless it is there already and nothing has changed.

    Args:
        folder: of the library, `_cpu_kernel.native.so` or the like. Without one, `why_not.txt` says why.
        target: a key of `TARGETS`, compiled for by Zig; this platform, by any compiler, if None.
        native: the folder of the sources.
        units: the compilations; those of the target if None.
        headers: the folder of XLA's headers; looked for if None.
        environment: the environment variables; those of the process if None. `CXX` and `CXXFLAGS` count.

    Returns:
        What came of it; no failure raises.
    """
    environment = os.environ if environment is None else environment
    name = target or this_target()
    # With a dot in its name Python takes it for no module of its own.
    library = folder / f"_cpu_kernel.native{TARGETS[name].ending if name else '.so'}"
    try:
        compiled = _build(library, target, name, native, units, headers, environment)
    except (BuildError, OSError, subprocess.SubprocessError) as error:
        reason = str(error) if isinstance(error, BuildError) else f"The build failed: {error}."
        with suppress(OSError):  # A library of other sources would be called with other arguments.
            library.unlink(missing_ok=True)
            stamp_of(library).unlink(missing_ok=True)
        with suppress(OSError):
            (folder / "why_not.txt").write_text(f"{reason}\n", "utf-8")
        return Built(None, reason, False)
    with suppress(OSError):
        (folder / "why_not.txt").unlink(missing_ok=True)
    return Built(library, "", compiled)


def stamp_of(library: Path) -> Path:
    """The file that says what the library was made of."""
    return library.with_suffix(".stamp")


def _build(
    library: Path,
    target: str | None,
    name: str | None,
    native: Path,
    units: Iterable[Unit] | None,
    headers: Path | None,
    environment: Mapping[str, str],
) -> bool:
    if environment.get(SWITCH, "") not in ("", "0"):
        raise BuildError(f"The build was switched off: expected no {SWITCH}, got one.")
    if name is None:
        raise BuildError(
            f"No kernel for this platform: expected one of {', '.join(TARGETS)}, "
            f"got {platform.machine()} {sys.platform}."
        )
    units = list(compilations(TARGETS[name].machine) if units is None else units)
    headers = headers or headers_folder()
    if headers is None:
        raise BuildError("No headers of XLA: expected jaxlib where the kernel is built, got none.")
    if target is None:
        commands = list(compilers(environment))
        if not environment.get("CXX") and (command := zig(name)) is not None:
            commands.append(command)
    else:
        commands = [command] if (command := zig(target)) is not None else []
    if not commands:
        raise BuildError(
            "No C++ compiler: expected $CXX, c++, g++, clang++ or the package ziglang, got none."
            if target is None
            else "No cross compiler: expected the package ziglang, got none."
        )
    first_error, seen = None, set()
    for command in commands:
        try:
            version = _output([*command, "--version"], environment)
            if version in seen:  # c++ is g++ or clang++.
                continue
            seen.add(version)
            command = [*command, *shlex.split(environment.get("CXXFLAGS", ""))]
            stamp = _stamp(command, version, units, native, headers)
            if library.exists() and stamp_of(library).exists():
                if stamp_of(library).read_text("utf-8") == stamp:
                    return False
            _compile(command, library, units, native, headers, environment)
            stamp_of(library).write_text(stamp, "utf-8")
            return True
        except BuildError as error:
            first_error = first_error or error
    assert first_error is not None  # There was one command at least.
    raise first_error


def _stamp(command: list[str], version: str, units: list[Unit], native: Path, headers: Path) -> str:
    digest = hashlib.sha256(repr((command[1:], version, FLAGS, units)).encode())
    sources = [*native.glob("*"), *(headers / "xla" / "ffi" / "api").glob("*")]
    for path in sorted(path for path in sources if path.is_file()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _compile(
    command: list[str],
    library: Path,
    units: list[Unit],
    native: Path,
    headers: Path,
    environment: Mapping[str, str],
) -> None:
    """Compile the units at the same time, link them, and put the library where it belongs in one move."""
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".building-") as work:
        includes = ["-I", str(native), "-isystem", str(headers)]

        def compile_unit(unit: Unit) -> str:
            made = str(Path(work, f"{unit.name}.o"))
            words = [*FLAGS, *unit.flags, *includes, "-c", str(native / unit.source), "-o", made]
            _output([*command, *words], environment)
            return made

        with ThreadPoolExecutor(_cores()) as pool:
            objects = list(pool.map(compile_unit, units))
        linked = Path(work, library.name)
        # Zig's own libraries come with what debuggers read, several megabytes of it.
        more = {".so": ["-pthread", "-s"], ".dylib": ["-Wl,-S"], ".dll": ["-s"]}[library.suffix]
        _output([*command, "-shared", *objects, *more, "-o", str(linked)], environment)
        os.replace(linked, library)


def _cores() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _output(words: list[str], environment: Mapping[str, str]) -> str:
    """What a command prints; its first error as a sentence if it fails."""
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            env=dict(environment),
            timeout=900,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"No C++ compiler: expected {words[0]} to run, got: {error}.") from None
    if done.returncode == 0:
        return done.stdout
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line] or lines or [f"exit {done.returncode}"]
    said = errors[0][:300].rstrip(".")
    raise BuildError(
        f"The compiler failed: expected {words[0]} to compile the kernel, got: {said}."
    )


if __name__ == "__main__":
    built = build_library()
    if built.library is None:
        sys.exit(built.reason)
    print(built.library if built.compiled else f"{built.library} (unchanged)")
