"""`vt-export calibrate`: find the temperature that makes the scores of a classifier honest."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_export.commands.arguments import add_version, version_from
from model_export.commands.evaluate import samples_for
from model_export.comparison.confidence import (
    BINS,
    expected_calibration_error,
    fitted_temperature,
    logits_and_truth,
)
from model_export.comparison.evaluation import data_sha256
from model_export.comparison.predictors import graph_predictor
from model_export.entry.publish import record
from model_export.entry.version import Version
from model_export.errors import InvalidData, InvalidModel
from model_export.samples import Sample, held_out

SUMMARY = "Calibrate the scores of a classifier."


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_version(command)
    command.add_argument("data", type=Path, help="class folders of photos that were not trained on")
    command.add_argument(
        "--hold-out",
        type=float,
        metavar="SHARE",
        help="fit on the photos that `train --hold-out SHARE` left out; measure on the others, "
        "unless --evaluate names a folder",
    )
    command.add_argument(
        "--evaluate",
        type=Path,
        metavar="FOLDER",
        help="class folders to measure the calibration error on",
    )


def run(options: argparse.Namespace) -> None:
    """Execute the command."""
    version = version_from(options)
    if version.dimensions.task != "classification":
        raise InvalidModel(f"{version.name} is no classifier: its answers have no scores")
    version.check_files()
    fitted, measured = _samples(options, version)
    temperature, confidence = calibrated(version, fitted, measured)
    record(version, version.certificate() | {"confidence": confidence}, temperature=temperature)
    print(json.dumps(confidence, indent=2))


def _samples(
    options: argparse.Namespace, version: Version
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The samples to fit the temperature on, and those to measure the calibration error on."""
    samples = samples_for(options.data, version)
    if options.hold_out is None and options.evaluate is None:
        raise InvalidData(
            "the error of a temperature must be measured on other photos than it was fitted on; "
            "give --hold-out SHARE, --evaluate FOLDER, or both"
        )
    others: Sequence[Sample] = []
    if options.hold_out is not None:
        others, samples = held_out(samples, options.hold_out)
    measured = others if options.evaluate is None else samples_for(options.evaluate, version)
    if not (samples and measured):
        raise InvalidData(f"--hold-out {options.hold_out} leaves no photos; choose a larger share")
    return samples, measured


def calibrated(
    version: Version, fitted: Sequence[Sample], measured: Sequence[Sample]
) -> tuple[float, dict[str, Any]]:
    """The temperature of the fp32 graph, and the certificate's section about it."""
    predict = graph_predictor(version.graph())
    temperature = round(
        fitted_temperature(*logits_and_truth(predict, fitted, version.preprocessing)), 4
    )
    logits, truth = logits_and_truth(predict, measured, version.preprocessing)
    return temperature, {
        "temperature": temperature,
        "fitted_on": _facts(fitted),
        "measured_on": _facts(measured),
        "bins": BINS,
        "expected_calibration_error": {
            "before": expected_calibration_error(logits, truth, 1.0),
            "after": expected_calibration_error(logits, truth, temperature),
        },
    }


def _facts(samples: Sequence[Sample]) -> dict[str, Any]:
    return {"images": len(samples), "sha256": data_sha256(samples)}
