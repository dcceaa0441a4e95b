"""A run in a process of its own: ``python a_run.py '{"steps": 40, "folder": ...}'``; its end as JSON."""

import dataclasses
import hashlib
import json
import resource
import signal
import sys
import time
from pathlib import Path


def main(words):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import jax
    import numpy as np
    import optax
    from jax.experimental import multihost_utils
    from training.problems import DATA, leaves, numbers, parts, recurrent

    from lstm_jax import training

    if words.get("processes"):
        training.start_processes(
            words["coordinator"], words["processes"], words["process"], heartbeat_seconds=10
        )
    here = words.get("process", 0)
    wrong = words.get("wrong") if here == words.get("where") else None
    mesh = training.data_mesh() if words.get("mesh") else None
    mesh = training.device_mesh(words["model"]) if words.get("model") else mesh
    seed = words.get("seed", 0)
    options = training.RunOptions(
        resume=words.get("resume", False),
        log_every=words.get("log_every", 5),
        checkpoint_every=words.get("checkpoint_every", 3),
        progress=False,
    )

    def look(params):
        # Slow, so that a kill finds the run at work, and within its checkpoints.
        time.sleep(words.get("pause", 0))
        return {"norm": np.float32(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(params)))}

    full_at = words.get("full_at")

    def until(entry):
        if full_at is not None and entry["step"] >= full_at:
            # From here on no file may grow beyond a few bytes, as on a full disk.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
        return wrong == "until" and entry["step"] >= 10

    def evaluate(params):
        calls.append(1)
        if wrong == "evaluate" and len(calls) == 3:
            raise ValueError("of the user")
        if words.get("together"):
            multihost_utils.process_allgather(np.float32(1))
        return {"error": 1.0 + here}

    calls = []

    watches = [] if mesh else [training.Watch("norms", 4, look)]
    options = dataclasses.replace(options, settings={"rate": 0.01}, watches=watches, until=until)
    if words.get("evaluate"):
        options = dataclasses.replace(options, evaluate=evaluate, evaluate_every=5)
    problem, data = recurrent(dropout=words.get("dropout", 0.3)), DATA
    if words.get("model"):
        problem = problem._replace(
            init=lambda key, drawn=problem.init: training.split_units(drawn(key))
        )
    if words.get("stream"):
        problem = problem._replace(batch=training.Problem._field_defaults["batch"])
        broken = words.get("broken") == words.get("process", 0)
        data = parts(words.get("process", 0), words.get("processes", 1), broken)
    try:
        fitted = training.fit(
            problem,
            optax.adam(0.01),
            words["steps"],
            seed=tuple(seed) if isinstance(seed, list) else seed,
            data=data,
            folder=Path(words["folder"]) if words.get("folder") else None,
            options=options,
            computation=training.Computation(mesh=mesh),
        )
    except (RuntimeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    digest = hashlib.sha256()
    if mesh is None:
        for leaf in leaves(fitted.state):
            digest.update(leaf.tobytes())
    placed = {
        name: sorted(
            {
                str(tuple(leaf.sharding.spec))
                for leaf in jax.tree.leaves(getattr(fitted.state, name))
                if mesh
            }
        )
        for name in ("carry", "params", "optimizer")
    }
    print(
        json.dumps(
            {
                "digest": digest.hexdigest(),
                "log": numbers(fitted.log),
                "devices": jax.device_count(),
                "placed": placed,
                "ended": fitted.ended,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
