"""Compile for an NVIDIA H100 or a TPU v5e without one, by XLA, and count the operations of the program.

JAX's CUDA plugin and libtpu have the compilers; they need neither a device nor NVIDIA's libraries. On a GPU,
XLA times its variants of each matrix product against those of cuBLAS. Here all products are cuBLAS's: without
a device to time them on, XLA chooses variants that it then fails to compile.

`launches` counts the operations that a program gives to the GPU, those of a loop once for each iteration.
Each launch has a fixed cost, often more than the work of one step of a recurrent network. The cost is smaller
where XLA launches several together as a CUDA graph.
"""

import os
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 12 minor: 8 }
dnn_version_info { major: 9 minor: 8 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
}
"""
"""The device, in the words of XLA's ``GpuTargetConfigProto``."""

NOT_LAUNCHED = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
OPERATION = re.compile(
    r"(?:ROOT )?%[\w.\-]+ = (?:\((?:[^()]|\([^()]*\))*\)|\S+) (?P<name>[\w\-]+)\("
)
BODY = re.compile(r"(?:body|to_apply)=%([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class NoCompiler(Exception):
    """There is no compiler for the device here; the message says what is missing."""


class Target(NamedTuple):
    """A device: its description for JAX, options of its compiler, and the packages that it needs."""

    description: dict[str, str]
    options: dict[str, str | bool]
    needs: str


TARGETS = {
    "h100": Target(
        dict(platform="cuda", topology_name="", topology="1x1x1", target_config=H100),
        {"xla_gpu_enable_triton_gemm": False},
        "JAX's CUDA plugin of the same version (jax-cuda12-plugin and jax-cuda12-pjrt)",
    ),
    "v5e": Target(dict(platform="tpu", topology_name="v5e:2x2"), {}, "JAX's libtpu"),
}


@cache
def device(name: str) -> Any:
    """The device of a description.

    Raises:
        NoCompiler: a package is missing, or needs a device.
    """
    from jax.experimental import topologies

    # Without these, libtpu asks a cloud server about the machine, and works in one process alone.
    for name_of_setting in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        os.environ.setdefault(name_of_setting, "1")
    try:
        described = topologies.get_topology_desc(**TARGETS[name].description)
    except (RuntimeError, NotImplementedError, KeyError, AssertionError) as error:
        raise NoCompiler(
            f"No compiler: expected {TARGETS[name].needs}, got: {' '.join(str(error).split())}"
        ) from None
    return described.devices[0]


def compiled(function: Callable[..., Any], *arguments: Any, target: str = "h100") -> Any:
    """The function compiled for a device, for arguments of these shapes.

    Raises:
        NoCompiler: there is no compiler for the device.
    """
    import jax

    place = jax.sharding.SingleDeviceSharding(device(target))

    def described(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    lowered = jax.jit(function).lower(*jax.tree.map(described, arguments))
    return lowered.compile(compiler_options=TARGETS[target].options)


def launches(text: str) -> int:
    """How many operations a program compiled for a GPU launches, in all.

    Args:
        text: of the program, in XLA's form (``compiled(…).as_text()``).

    Raises:
        ValueError: a loop without a known number of iterations, or a conditional: neither has a number.
    """
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            lines = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        else:
            lines.append(line.strip())

    def count(name: str) -> int:
        total = 0
        for line in computations[name]:
            operation = OPERATION.match(line)
            if operation is None or operation["name"] in NOT_LAUNCHED:
                continue
            if operation["name"] == "conditional":
                raise ValueError(f"No number of launches: {name} chooses between programs.")
            body, trips = BODY.search(line), TRIPS.search(line)
            if operation["name"] == "call" and body is not None:
                total += count(body[1])
            elif operation["name"] != "while":
                total += not operation["name"].endswith("-done")  # the end of one begun before
            elif body is None or trips is None:
                raise ValueError(f"No number of launches: the loop in {name} has no known length.")
            else:
                total += int(trips[1]) * count(body[1])
        return total

    return count(entry)
