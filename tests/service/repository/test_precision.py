"""Which precision is chosen, and the sentence why another is not."""

import re

import pytest

from service.repository.precision import choose_precision, objection
from service.schema.certificate import Certificate
from service.schema.vocabulary import Task
from tests.service.repository_fixture import SELF_TEST, Json, accuracy

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
CLASSIFICATION, SEGMENTATION = Task.CLASSIFICATION, Task.SEGMENTATION
NAN = float("nan")


def precision(limits: Json | None = None, **accuracies: Json) -> Json:
    """What a certificate says of a precision; the accuracies are by `cpu` and `cuda`."""
    providers = {f"{name.upper()}ExecutionProvider": each for name, each in accuracies.items()}
    return {
        "file": "model.onnx",
        "limits": limits or {},
        "self_test": SELF_TEST,
        "execution_providers": {name: {"accuracy": each} for name, each in providers.items()},
    }


def certificate(**precisions: Json) -> Certificate:
    return Certificate.model_validate(
        {
            "format_version": 1,
            "model": "colour",
            "version": "1",
            "golden": "golden.npz",
            "files": {},
            "precisions": precisions,
        }
    )


FP32 = precision(cpu=accuracy(top1=0.9, miou=0.5))
LOSS, AGREEMENT = {"accuracy_loss": 0.005}, {"agreement_with_fp32": 0.995}
GOOD_INT8 = precision(LOSS, cpu=accuracy(top1=0.897))
BAD_INT8 = precision(LOSS, cpu=accuracy(top1=0.891))
GOOD_FP16 = precision(AGREEMENT, cpu=accuracy(agreement_with_fp32=0.999))
BAD_FP16 = precision(AGREEMENT, cpu=accuracy(agreement_with_fp32=0.989))

GOOD = certificate(fp32=FP32, int8=GOOD_INT8, fp16=GOOD_FP16)
BAD = certificate(fp32=FP32, int8=BAD_INT8, fp16=BAD_FP16)
ONLY_FP32 = certificate(fp32=FP32)

FOR_CPUS = "the int8 graph is meant for CPUs and was not measured on"
INT8_LOSES = "int8 loses 0.9 points of top1; at most 0.5 are allowed"
FP16_DISAGREES = "fp16 agrees with fp32 on 98.90 % of the answers; at least 99.50 % is required"


@pytest.mark.parametrize(
    ("setting", "provider", "stated", "chosen", "why"),
    [
        ("auto", CPU, GOOD, "int8", None),
        ("auto", CUDA, GOOD, "fp16", None),
        ("auto", TENSORRT, GOOD, "fp16", None),
        ("auto", TENSORRT, ONLY_FP32, "fp32", "there is no fp16 graph"),
        ("auto", "OtherExecutionProvider", GOOD, "fp32", None),
        ("auto", CPU, BAD, "fp32", INT8_LOSES),
        ("auto", CUDA, BAD, "fp32", FP16_DISAGREES),
        ("auto", CPU, ONLY_FP32, "fp32", "there is no int8 graph"),
        ("auto", CUDA, ONLY_FP32, "fp32", "there is no fp16 graph"),
        ("fp32", CPU, GOOD, "fp32", None),
        ("fp32", CUDA, GOOD, "fp32", None),
        ("fp16", CPU, GOOD, "fp16", None),
        ("int8", CUDA, GOOD, "int8", f"{FOR_CPUS} {CUDA}"),
        ("int8", TENSORRT, GOOD, "int8", f"{FOR_CPUS} {TENSORRT}"),
        ("int8", CPU, BAD, "int8", INT8_LOSES),
        ("fp16", CUDA, BAD, "fp16", FP16_DISAGREES),
        ("int8", CPU, ONLY_FP32, "int8", "there is no int8 graph"),
        ("fp16", CUDA, ONLY_FP32, "fp16", "there is no fp16 graph"),
    ],
)
def test_the_precision_is_chosen_by_setting_provider_and_certificate(
    setting: str, provider: str, stated: Certificate, chosen: str, why: str | None
) -> None:
    choice = choose_precision(setting, stated, CLASSIFICATION, provider)
    assert (choice.precision, choice.objection) == (chosen, why)


NOT_MEASURED = "the accuracy of int8 was not measured"
FP32_NOT_MEASURED = "the accuracy of fp32 was not measured on the data of int8"


@pytest.mark.parametrize(
    ("int8", "why"),
    [
        (precision(LOSS, cpu=accuracy(top1=0.895)), None),
        (precision(LOSS, cpu=accuracy(top1=0.95)), None),
        (precision(LOSS), NOT_MEASURED),
        (precision(LOSS, cpu=accuracy(miou=0.5)), NOT_MEASURED),
        (precision(LOSS, cpu=accuracy(top1=NAN)), NOT_MEASURED),
        (
            precision({"accuracy_loss": NAN}, cpu=accuracy(top1=0.9)),
            "0 points .* at most nan are allowed",
        ),
        (precision(LOSS, cpu={**accuracy(top1=0.9), "sha256": "d" * 64}), FP32_NOT_MEASURED),
        (precision(LOSS, cpu={**accuracy(top1=0.9), "sha256": None}), FP32_NOT_MEASURED),
        (precision(cpu=accuracy(top1=0.9)), "the certificate states no limits for int8"),
        (precision(), NOT_MEASURED),
        (precision(AGREEMENT, cpu=accuracy(agreement_with_fp32=0.995)), None),
        (precision(AGREEMENT, cpu=accuracy(agreement_with_fp32=NAN)), NOT_MEASURED),
        (precision(AGREEMENT, cpu=accuracy(top1=0.9)), NOT_MEASURED),
        (precision(AGREEMENT), NOT_MEASURED),
        (
            precision({"agreement_with_fp32": NAN}, cpu=accuracy(agreement_with_fp32=1.0)),
            "at least nan % is required",
        ),
        (
            precision(LOSS | AGREEMENT, cpu=accuracy(top1=0.9, agreement_with_fp32=0.9)),
            "int8 agrees with fp32 on 90.00 %",
        ),
        (precision(LOSS, cpu=accuracy(top1=0.8), cuda=accuracy(top1=0.9)), "loses 10 points"),
        (precision(LOSS, cuda=accuracy(top1=0.8)), "loses 10 points"),
    ],
)
def test_a_precision_is_within_its_limits_or_a_sentence_says_why_not(
    int8: Json, why: str | None
) -> None:
    found = objection(certificate(fp32=FP32, int8=int8), CLASSIFICATION, "int8", CPU)
    assert found is None if why is None else re.search(why, str(found)), found


def test_measurements_on_the_device_take_precedence_over_those_on_the_cpu() -> None:
    int8 = precision(LOSS, cpu=accuracy(top1=0.8), cuda=accuracy(top1=0.9))
    stated = certificate(fp32=FP32, int8=int8)
    assert objection(stated, CLASSIFICATION, "int8", CUDA) is None


def test_segmentation_is_compared_by_miou() -> None:
    int8 = precision(LOSS, cpu=accuracy(top1=0.9, miou=0.48))
    found = objection(certificate(fp32=FP32, int8=int8), SEGMENTATION, "int8", CPU)
    assert found == "int8 loses 2 points of miou; at most 0.5 are allowed"


@pytest.mark.parametrize("fp32", [{}, {"fp32": precision()}], ids=["no graph", "not measured"])
def test_a_loss_needs_the_accuracy_of_fp32(fp32: Json) -> None:
    found = objection(certificate(**fp32, int8=GOOD_INT8), CLASSIFICATION, "int8", CPU)
    assert found == FP32_NOT_MEASURED


def test_fp32_is_always_within_its_limits() -> None:
    stated = certificate(fp32=precision(LOSS))
    assert objection(stated, CLASSIFICATION, "fp32", CPU) is None
    assert objection(certificate(), CLASSIFICATION, "fp32", CPU) == "there is no fp32 graph"
