"""Chooses the precision: the one preferred by the device, if the certificate allows it."""

from dataclasses import dataclass

from service.runtime.execution_providers import CPU, CUDA, TENSORRT
from service.schema.certificate import AccuracyRecord, Certificate, Limits, PrecisionRecord
from service.schema.tasks import TASKS
from service.schema.vocabulary import Task

AUTO = "auto"
FP32 = "fp32"
INT8 = "int8"

PREFERRED = {CPU: INT8, CUDA: "fp16", TENSORRT: "fp16"}

_ROUNDING = 1e-9
"""Tolerance, so that a loss of exactly the limit is allowed."""


@dataclass(frozen=True)
class PrecisionChoice:
    """The chosen precision.

    `objection` is the reason why the preferred precision is not used or, if a precision was set,
    why that one should not be.
    """

    precision: str
    objection: str | None = None


def choose_precision(
    setting: str, certificate: Certificate, task: Task, provider: str
) -> PrecisionChoice:
    """Choose for an execution provider; a setting other than `auto` is always obeyed."""
    wanted = PREFERRED.get(provider, FP32) if setting == AUTO else setting
    found = objection(certificate, task, wanted, provider)
    if setting == AUTO and found is not None:
        return PrecisionChoice(FP32, found)
    return PrecisionChoice(wanted, found)


def objection(certificate: Certificate, task: Task, precision: str, provider: str) -> str | None:
    """Return the reason against a precision on an execution provider; None if there is none."""
    record = certificate.precisions.get(precision)
    if record is None:
        return f"there is no {precision} graph"
    if precision == FP32:
        return None
    own = next(iter(record.accuracies(provider)), None)
    if own is None:
        return _not_measured(precision)
    if precision == INT8 and provider != CPU and not _is_measured_on(provider, record):
        return f"the int8 graph is meant for CPUs and was not measured on {provider}"
    if record.limits == Limits():
        return f"the certificate states no limits for {precision}"
    fp32 = _on_the_same_data(own, certificate.precisions.get(FP32), provider)
    return _loss_beyond(record.limits.accuracy_loss, precision, task, own, fp32) or (
        _agreement_below(record.limits.agreement_with_fp32, precision, own)
    )


def _loss_beyond(
    limit: float | None,
    precision: str,
    task: Task,
    own: AccuracyRecord,
    fp32: AccuracyRecord | None,
) -> str | None:
    if limit is None:
        return None
    ours, theirs = own.metric(task), None if fp32 is None else fp32.metric(task)
    if ours is None:
        return _not_measured(precision)
    if theirs is None:
        return f"the accuracy of fp32 was not measured on the data of {precision}"
    if theirs - ours <= limit + _ROUNDING:
        return None
    return (
        f"{precision} loses {100 * (theirs - ours):.3g} points of {TASKS[task].metric}; "
        f"at most {100 * limit:.3g} are allowed"
    )


def _agreement_below(limit: float | None, precision: str, own: AccuracyRecord) -> str | None:
    if limit is None:
        return None
    if own.agreement_with_fp32 is None:
        return _not_measured(precision)
    if own.agreement_with_fp32 >= limit:
        return None
    return (
        f"{precision} agrees with fp32 on {100 * own.agreement_with_fp32:.2f} % of the answers; "
        f"at least {100 * limit:.2f} % is required"
    )


def _on_the_same_data(
    own: AccuracyRecord, record: PrecisionRecord | None, provider: str
) -> AccuracyRecord | None:
    accuracies = record.accuracies(provider) if record and own.sha256 else []
    return next((each for each in accuracies if each.sha256 == own.sha256), None)


def _is_measured_on(provider: str, record: PrecisionRecord) -> bool:
    on_provider = record.execution_providers.get(provider)
    return on_provider is not None and on_provider.accuracy is not None


def _not_measured(precision: str) -> str:
    return f"the accuracy of {precision} was not measured"
