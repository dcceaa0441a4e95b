"""Each competitor of the part "training" takes steps of the same sizes."""

import pytest
from benchmarks import language_training
from benchmarks.language_training import NAMES, PASSIVE, PYTORCH
from benchmarks.timed_program import NotOffered


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_step(name, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    if name in (PYTORCH, PASSIVE):
        pytest.importorskip("torch")
    try:
        call = language_training.contestant(name, {"setting": "tiny"}).compile()
    except NotOffered as error:
        pytest.skip(str(error))
    # The text has more windows than that, so its end is not reached.
    for _ in range(3):
        call()


def test_the_sizes_are_those_of_the_experiments():
    from experiments.char_lm.settings import SETTINGS
    from experiments.ptb.run import SIZES

    char, ptb = language_training.SETTINGS["char"], language_training.SETTINGS["ptb"]
    library, small = SETTINGS["library"], SIZES["small"]
    assert (char.units, char.layers) == (library.hidden_size, library.layers)
    assert (char.batch, char.length) == (library.batch_size, library.length)
    assert library.embedding_size is None and char.embedding is None
    assert (ptb.units, ptb.embedding, ptb.length) == (small.hidden_size, 200, small.length)
