"""Contestants that fail in one way each, for the test of a race."""

import os
import signal

from benchmarks.timed_program import Contestant, NotOffered


def contestant(name, arguments):
    if name == "missing":
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")
    if name == "refusing":
        raise NotOffered("has no such cell")
    if name == "killed in compiling":
        return Contestant(lambda: os.kill(os.getpid(), signal.SIGKILL))
    calls = []

    def call():
        calls.append(None)
        print("chatter on standard output")
        if name == "killed in a turn" and len(calls) > arguments["calls"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "raising" and len(calls) > arguments["calls"]:
            raise ValueError("two\nlines")
        return 0.25

    return Contestant(lambda: call)
