"""How a command ends: one line and a code, whoever reads its output."""

import os
import subprocess
import sys

import pytest

from lstm_jax.command_line import exit_codes


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("parts are kept"), 130, "interrupted: parts are kept"),
        (ValueError("Refused."), 2, "error: Refused."),
        (ZeroDivisionError("Stopped."), 1, "error: Stopped."),
        (OSError(28, "No space left on device", "a/b"), 1, "No space left on device (a/b)."),
        (MemoryError(), 1, "error: Out of memory"),
    ],
)
def test_a_command_ends_with_one_line_and_a_code(capsys, error, code, said):
    def action():
        if error is not None:
            raise error

    found = exit_codes.exit_code(action, refused=(ValueError,), failed=(ZeroDivisionError,))
    told = capsys.readouterr().err
    assert found == code and said in told and told.count("\n") == bool(said)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_pipes_that_close_and_terminals_without_our_characters():
    """``| head``, an ASCII terminal, and no output at all: no traceback, in one process each."""
    many = (
        "import sys; from lstm_jax.command_line.exit_codes import exit_code\n"
        "sys.exit(exit_code(lambda: [print('∂' * 80) for _ in range(9999)] and 0, refused=()))"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    words = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    program = subprocess.Popen([sys.executable, "-c", many], **words)
    assert program.stdout.readline() == b"?" * 80 + b"\n"
    program.stdout.close()
    assert program.stderr.read() == b""
    program.stderr.close()
    assert program.wait() == 141
    module = [sys.executable, "-m", "gradient_flow", "compare", "--help"]
    told = subprocess.run(module, **words, check=True)
    assert told.stderr == b"" and b"?h_T/?h_0" in told.stdout


@pytest.mark.parametrize(("code", "at_the_end"), [(130, ["first"]), (2, ["first", "destroyed"])])
def test_an_interrupted_process_ends_before_xla_can_crash(code, at_the_end):
    """It does what was registered for its end, says what it has said, and no more."""
    program = (
        "import atexit, sys; from lstm_jax.command_line.exit_codes import leave\n"
        "class Last:\n"
        "    def __del__(self, write=sys.stdout.write, flush=sys.stdout.flush):\n"
        "        write('destroyed'); flush()\n"
        "atexit.register(lambda: print('first')); last = Last(); leave(int(sys.argv[1]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(code)], capture_output=True, text=True
    )
    assert ended.returncode == code and ended.stderr == ""
    assert ended.stdout.split() == at_the_end
