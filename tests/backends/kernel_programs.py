"""Programs of their own that use the CPU kernel, each in a process that may be stopped, starved or forked."""

import os
import subprocess
import sys

PATIENCE = 300
"""Seconds after which a program counts as one that hangs."""

BEGIN = """
import os, signal, sys, threading, time
import jax, jax.numpy as jnp, numpy as np, lstm_jax
jax.config.update("jax_enable_x64", True)

def problem(sizes, backend="cpu_kernel"):
    steps, rows, inputs, units = sizes
    cell = lstm_jax.lstm(inputs, units)
    arguments = (cell.init(jax.random.key(0), jnp.float64),
                 jax.random.normal(jax.random.key(1), (steps, rows, inputs)))
    def loss(params, xs):
        return (lstm_jax.unroll(cell, params, xs, backend=backend)[1] ** 2).sum()
    return jax.jit(jax.value_and_grad(loss, (0, 1))), arguments

def bits(found):
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found))

def same(found, expected):
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)

# Rows for every thread; one row, whose units the threads divide.
SIZES = [(30, 8, 12, 40), (4, 1, 300, 900)]
"""


def start(program, before="", **environment):
    """The program in a process, with pipes; `BEGIN` is before it, and some lines before JAX."""
    return subprocess.Popen(
        [sys.executable, "-c", before + BEGIN + program],
        env={**os.environ, "PYTHONHASHSEED": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process):
    """What it prints; a program that fails or hangs is a failure here."""
    try:
        told, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"No end within {PATIENCE} s.") from None
    assert process.returncode == 0, errors
    return told


def run(program, before="", **environment):
    """What a program prints."""
    return outcome(start(program, before, **environment))
