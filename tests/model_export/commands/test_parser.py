"""All commands treat bad arguments, missing files and interruptions alike."""

import onnxruntime
import pytest

from model_export.__main__ import main
from model_export.commands import describe


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["describe", "vt_resnet19"], "unknown model 'vt_resnet19'; the models are resnet18"),
        (["describe", "resnet18", "--tokens", "8"], "resnet18 has no visual tokens"),
        (["describe", "vt_resnet18", "--heads", "7"], "heads must divide 512"),
        (["describe", "fpn_resnet18", "--input-size", "100", "100"], "multiples of 32"),
        (["verify", "nothing", "--weights-dir", "nowhere"], "model nothing not found in nowhere"),
        (["train", "nowhere", "--model", "resnet18", "--output", "x"], "is not a folder"),
    ],
)
def test_a_command_that_cannot_run_ends_with_status_2_and_a_sentence(run, arguments, sentence):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("vt-export: ")
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["describe"],
        ["describe", "vt_resnet18", "--tokenizer", "magic"],
        ["train", "data", "--model", "resnet18", "--output", "x", "--epochs", "0"],
        ["train", "data", "--model", "resnet18", "--output", "x", "--batch-size", "-1"],
        ["train", "data", "--model", "resnet18", "--output", "x", "--crop-sizes", "large"],
    ],
)
def test_invalid_arguments_end_with_status_2_and_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: vt-export" in capsys.readouterr().err


def test_an_interruption_ends_with_status_130(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(describe, "run", interrupted)
    assert run("describe", "resnet18")[0] == 130


@pytest.fixture(params=["verify", "evaluate"])
def measurement(request, classifier_weights, colors) -> list:
    photos = [colors] if request.param == "evaluate" else []
    return [request.param, "colors", *photos, "--weights-dir", classifier_weights]


def test_a_missing_precision_is_refused(run, measurement):
    status, out, err = run(*measurement, "--precision", "fp32", "int8")
    assert (status, out, err) == (2, "", "vt-export: colors 1 has no int8 graph; available: fp32\n")


def test_a_missing_execution_provider_is_refused_in_one_sentence(run, measurement, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    status, out, err = run(*measurement, "--execution-provider", "cuda")
    assert (status, out) == (2, "")
    assert err.startswith("vt-export: the installed ONNX Runtime has no CUDAExecutionProvider;")
    assert err.count("\n") == 1
