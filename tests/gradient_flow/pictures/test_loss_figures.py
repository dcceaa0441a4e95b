"""The loss of a run as a picture: the lines are the numbers of its log."""

import numpy as np
import pytest

from gradient_flow.command_line import cli
from gradient_flow.pictures.comparison_figures import plt
from gradient_flow.pictures.loss_figures import _figure, draw_losses, losses_of
from gradient_flow.results_folder import OutputError
from lstm_jax.training.log import Log

LOG = [
    {"step": 0, "valid": [3.0, 2.0], "seconds": 0.0},
    {"step": 10, "loss": [40.0, 8.0], "gradient_norm": [1.0, 1.0], "seconds": 1.0},
    {"step": 20, "loss": [1.0, float("nan")], "valid": [1.0, 1.5], "seconds": 2.0},
    {"step": 21, "diverged": True, "error": "Diverged."},
]


def test_a_line_for_each_run_and_a_panel_for_what_was_evaluated():
    figure = _figure(losses_of(LOG), LOG)
    loss, valid = figure.axes
    assert [ax.get_ylabel() for ax in figure.axes] == ["training loss", "valid"]
    assert (loss.get_yscale(), valid.get_yscale()) == ("log", "linear")
    for ax, wanted in ((loss, [[40, 1], [8, np.nan]]), (valid, [[3, 1], [2, 1.5]])):
        np.testing.assert_array_equal([line.get_ydata() for line in ax.lines], wanted)
    assert loss.lines[0].get_xdata().tolist() == [10, 20]
    plt.close(figure)


def test_the_command_draws_the_loss_of_a_run_that_was_not_watched(tmp_path, capsys):
    log = Log(tmp_path)
    for entry in LOG:
        log.write(entry)
    log.close()
    assert cli.main(["draw", str(tmp_path)]) == 0
    assert str(tmp_path / "loss.png") in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "loss.png", "loss.svg"}


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ([], "at least one entry with a loss, got none"),
        (LOG[:1], "at least one entry with a loss, got none"),
        ([*LOG, {"step": 30, "loss": 1.0}], "the same number of losses in each entry"),
        ([{"step": 1, "loss": "x"}], "the same number of losses in each entry"),
    ],
)
def test_a_log_that_cannot_be_drawn_is_refused(tmp_path, log, message):
    with pytest.raises(OutputError, match=message):
        draw_losses(log, tmp_path / "out")
    assert not (tmp_path / "out").exists()
