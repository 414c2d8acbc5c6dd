"""Progress: a line every half minute, or a bar in a terminal."""

import io
import sys

import pytest

from model_export.errors import InvalidModel
from model_export.training.progress import Progress, TensorBoard
from model_export.training.recipes import RECIPES

RECIPE = RECIPES["classification"].changed(
    epochs=2, batch_size=10, input_sizes=((10, 10), (20, 20))
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def reported(stream: io.StringIO, seconds: float = 10.0, **options) -> str:
    """The report of an epoch of 8 updates that take 10 seconds each."""
    now = [0.0]
    progress = Progress(RECIPE, 8, stream=stream, clock=lambda: now[0], **options)
    with progress.epoch(0, start=0):
        for update in range(8):
            now[0] += seconds
            progress.advance(update + 1, loss=1.5)
    return stream.getvalue()


def test_a_line_every_half_minute_names_loss_speed_and_time_left():
    """After 3 of 8 updates 5 are left, and 8 of four times the pixels: (5 + 32) x 10 s."""
    assert reported(io.StringIO()).splitlines() == [
        "epoch 1/2, 38%: loss 1.500, 1.0 images/s, 0:06:10 left",
        "epoch 1/2, 75%: loss 1.500, 1.0 images/s, 0:05:40 left",
    ]


def test_a_slow_update_does_not_hide_the_speed():
    assert reported(io.StringIO(), seconds=60).splitlines()[0] == (
        "epoch 1/2, 12%: loss 1.500, 0.2 images/s, 0:39:00 left"
    )


def test_a_terminal_shows_a_bar_without_lines():
    shown = reported(Terminal())
    assert "epoch 1/2" in shown
    assert "loss=1.500" in shown
    assert "left=0:05:20" in shown
    assert "images/s, " not in shown


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_only_the_first_process_reports(stream):
    assert reported(stream(), shown=False) == ""


def test_a_missing_tensorboard_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InvalidModel, match="--log tensorboard needs the package tensorboard"):
        TensorBoard(tmp_path, 0)
