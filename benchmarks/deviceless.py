"""XLA's compiler for an NVIDIA H100, on a machine that has none: what a program becomes, not how fast it is.

JAX's CUDA plugin brings the compiler; it needs neither a device nor NVIDIA's libraries. On a device it tries
out variants of each matrix product, its own and cuBLAS's. Here all are cuBLAS's: where it cannot try, it
takes some of its own that it then fails to compile.

`launches` counts, in the compiled program, the operations that a device is given one by one, those of a loop
as often as it goes round. Each costs some microseconds, however little it has to do; a step of a recurrent
network often has less to do than that.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

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

OPTIONS: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}
NOT_LAUNCHED = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
OPERATION = re.compile(
    r"(?:ROOT )?%[\w.\-]+ = (?:\((?:[^()]|\([^()]*\))*\)|\S+) (?P<name>[\w\-]+)\("
)
BODY = re.compile(r"body=%([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class NoCompiler(Exception):
    """There is no compiler for CUDA here; the message says what is missing."""


@cache
def h100() -> Any:
    """The H100 of the description.

    Raises:
        NoCompiler: JAX's CUDA plugin is not installed, or cannot do without a device.
    """
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(
            platform="cuda", topology_name="", topology="1x1x1", target_config=H100
        )
    except (RuntimeError, NotImplementedError, KeyError, AssertionError) as error:
        raise NoCompiler(
            "No compiler: expected JAX's CUDA plugin of the same version (jax-cuda12-plugin and "
            f"jax-cuda12-pjrt), got: {' '.join(str(error).split())[:200]}"
        ) from None
    return described.devices[0]


def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function compiled for the device, for arguments of these shapes.

    Raises:
        NoCompiler: there is none here.
    """
    import jax

    place = jax.sharding.SingleDeviceSharding(h100())

    def described(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    lowered = jax.jit(function).lower(*jax.tree.map(described, arguments))
    return lowered.compile(compiler_options=OPTIONS)


def launches(text: str) -> int:
    """How many operations a compiled program launches, in all.

    Args:
        text: of the program, in XLA's own form (``compiled(…).as_text()``).

    Raises:
        ValueError: a loop of which the compiler does not know how often it goes round, or a choice between
            programs: neither has a number.
    """
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if begun := COMPUTATION.match(line):
            lines = computations[begun[2]] = []
            entry = begun[2] if begun[1] else entry
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
            if operation["name"] != "while":
                total += 1
                continue
            body, trips = BODY.search(line), TRIPS.search(line)
            if body is None or trips is None:
                raise ValueError(f"No number of launches: the loop in {name} has no known length.")
            total += int(trips[1]) * count(body[1])
        return total

    return count(entry)
