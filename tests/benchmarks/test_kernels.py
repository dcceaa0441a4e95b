"""What a program launches on a GPU: counted in a text, and in what the compiler for an H100 makes of ours."""

import json

import jax
import pytest
from benchmarks import __main__ as command
from benchmarks import compile_without_device
from benchmarks.compile_without_device import NoCompiler, launches

PROGRAM = """HloModule jit_f, is_scheduled=true

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %n = f32[4]{0} negate(%p)
}

%inner (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%s), index=1
  %a.1 = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="while body=%nothing"}
  %b = (f32[4]{0}, s8[32]{0}) custom-call(%a.1), custom_call_target="__cublas$gemm"
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %a.1)
}

%outer (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %c = f32[4]{0} copy(%x)
  ROOT %w = (s32[], f32[4]{0}) while(%s), body=%inner, backend_config={"known_trip_count":{"n":"5"}}
}

ENTRY %main.3 (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %k = s32[] constant(0)
  %w.1 = (s32[], f32[4]{0}) while(%t), body=%outer, backend_config={"known_trip_count":{"n":"3"}}
  %bits = f32[2,2]{1,0} bitcast(%x)
  %called = f32[4]{0} call(%x), to_apply=%fused
  %begun = (f32[4]{0}, f32[4]{0}) copy-start(%x)
  %done = f32[4]{0} copy-done(%begun)
  ROOT %f = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused
}
"""


def test_launches_of_a_program():
    # A fusion, a called negation, a copy; three times a copy and five times a fusion and a product.
    assert launches(PROGRAM) == 3 + 3 * (1 + 5 * 2)
    with pytest.raises(ValueError, match="the loop in outer has no known length"):
        launches(PROGRAM.replace('"n":"5"', ""))
    with pytest.raises(ValueError, match="inner chooses between programs"):
        launches(PROGRAM.replace("custom-call(%a.1)", "conditional(%a.1)"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shape", "1,2"], "expected --shape as four positive whole numbers"),
        (["--competitor", "pytorch"], "expected --competitor from lstm_jax, plain scan"),
    ],
)
def test_refusals(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["kernels", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_the_compiler(tmp_path, capsys):
    try:
        compile_without_device.device("h100")
    except NoCompiler:
        words = "kernels --quick --cell rnn --pass forward --competitor haiku --out".split()
        assert command.main([*words, str(tmp_path / "run")]) == 2
        assert "error: No compiler: expected JAX's CUDA plugin" in capsys.readouterr().err
    else:
        pytest.skip("the compiler is here")


@pytest.mark.compiler
def test_end_to_end(require_compiler, tmp_path, capsys):
    require_compiler("h100")
    out = tmp_path / "run"
    words = "kernels --cell lstm --shape 24,2,3,4 --competitor".split()
    assert command.main([*words, "plain scan", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("| LSTM 24,2,3,4 gradient |") == 3
    found = json.loads((out / "results.json").read_text())
    assert found["finished"]
    forward, gradient = (
        {name: entry["launches"] / 24 for name, entry in case["entries"].items()}
        for case in found["parts"]["kernels"]
    )
    # What the settings for a GPU are for: two kernels a step forward and three backward, and little else.
    assert forward["lstm_jax"] < 3 and gradient["lstm_jax"] < 7
    assert forward["plain scan"] > 5 and gradient["plain scan"] > 4 * gradient["lstm_jax"]
    assert jax.default_backend() == "cpu"
