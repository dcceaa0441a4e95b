"""Count the kernels that a step of each competitor's unroll launches on a GPU, without a GPU.

``python -m benchmarks.kernels SPEC`` is the process that compiles: SPEC is JSON with the cases and names, and
every line that it prints is the JSON of one competitor on one case. It sets the platform of `lstm_jax` to
GPU, which is automatic on a machine that has one.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

from benchmarks.cases import Case, case_from
from benchmarks.compile_without_device import NoCompiler, compiled, launches
from benchmarks.timed_program import NotOffered


def counted(cases: Sequence[Case], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every competitor on every case, compiled for an H100 in a separate process.

    Yields:
        ``case`` (a number), ``name``, ``status``, and where that is ``"ok"`` ``launches``, ``temporary_mb``
        and ``compile_s``.

    Raises:
        NoCompiler: JAX's CUDA plugin is missing, or the process died.
    """
    spec = {"cases": [case.as_json() for case in cases], "names": list(names)}
    paths = [path or os.getcwd() for path in sys.path]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.kernels", json.dumps(spec)],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                result = json.loads(line)
                if "missing" in result:
                    raise NoCompiler(result["missing"])
                yield result
            if code := process.wait():
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines() or ["nothing"]
                raise NoCompiler(
                    f"The process that compiles ended with {code} and the message: {said[-1][:200]}"
                )
        finally:
            process.kill()


def of_case(case: Case, name: str) -> dict[str, Any]:
    """One competitor on one case."""
    try:
        return {"status": "ok", **_compiled(case, name)}
    except NoCompiler:
        raise
    except NotOffered as error:
        return {"status": f"not offered: {error}"}
    except ModuleNotFoundError as error:
        return {"status": f"not installed ({error.name})"}
    except Exception as error:  # every failure of a competitor is a line of the table
        words = " ".join(str(error).split())
        return {"status": f"failed: {type(error).__name__}: {words[:200]}"}


def _compiled(case: Case, name: str) -> dict[str, Any]:
    import jax

    from benchmarks.competitors import NETWORKS, arrays, loss_of

    network = NETWORKS[name](case)
    xs, weight, _ = arrays(case)
    inputs = (network.params, xs, network.state0)
    start = perf_counter()
    if case.pass_ == "forward":
        program = compiled(network.run, *inputs)
    else:
        program = compiled(jax.grad(loss_of(network), argnums=(0, 1, 2)), *inputs, weight)
    return {
        "compile_s": perf_counter() - start,
        "launches": launches(program.as_text()),
        "temporary_mb": program.memory_analysis().temp_size_in_bytes / 2**20,
    }


def main() -> int:
    """Compile the cases of the command line; the output of libraries goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from lstm_jax.time_loop import scan

    scan.PLATFORMS["cpu"] = scan.GPU
    spec = json.loads(sys.argv[1])
    for number, case in enumerate(map(case_from, spec["cases"])):
        for name in spec["names"]:
            try:
                result = {"case": number, "name": name, **of_case(case, name)}
            except NoCompiler as error:
                replies.write(json.dumps({"missing": str(error)}) + "\n")
                return 0
            replies.write(json.dumps(result) + "\n")
            replies.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
