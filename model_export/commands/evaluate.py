"""`vt-export evaluate`: measure the accuracy of the graphs of a version."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_export.commands.arguments import (
    add_measurement,
    add_version,
    positive,
    precisions_from,
    providers_of,
    version_from,
)
from model_export.commands.inputs import samples_in
from model_export.comparison.accuracy import accuracy
from model_export.comparison.predictors import graph_predictor
from model_export.comparison.scaled_decoding import scaled_decoding
from model_export.entry.precisions import PrecisionName
from model_export.entry.publish import record
from model_export.entry.version import Version
from model_export.errors import InvalidData
from model_export.execution_providers import PROVIDERS
from model_export.samples import Sample

DECODED_IMAGES = 200
SUMMARY = "Measure accuracy through ONNX Runtime."


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_version(command)
    command.add_argument(
        "data", type=Path, help="labelled data: class folders, or images/ and labels/"
    )
    add_measurement(command)
    command.add_argument(
        "--data-name", help="name of the data in the certificate (default: the folder's name)"
    )
    command.add_argument(
        "--decoded-images",
        type=positive,
        default=DECODED_IMAGES,
        metavar="NUMBER",
        help="with --record: photos to decode at a reduced scale and in full, to compare the "
        f"answers (default: {DECODED_IMAGES})",
    )


def run(options: argparse.Namespace) -> None:
    """Execute the command."""
    version = version_from(options)
    version.check_files()
    provider = PROVIDERS[options.execution_provider]
    samples, data = samples_for(options.data, version), options.data_name or options.data.name
    precisions = precisions_from(options, version)
    results = accuracy(version, precisions, samples, data=data, provider=provider)
    decoding = _decoding(version, samples, data, options) if options.record else {}
    print(json.dumps({**results, **decoding}, indent=2))
    if options.record:
        _record(version, results, decoding, provider)


def _decoding(
    version: Version, samples: Sequence[Sample], data: str, options: argparse.Namespace
) -> dict[str, Any]:
    """The `scaled_decoding` of the certificate, if the contract has the rule; by the fp32 graph."""
    if version.preprocessing.jpeg_reducing_gap is None:
        return {}
    predict = graph_predictor(version.graph(), PROVIDERS[options.execution_provider])
    section = scaled_decoding(
        predict, samples, version.preprocessing, data=data, images=options.decoded_images
    )
    return {"scaled_decoding": section}


def _record(
    version: Version,
    results: Mapping[PrecisionName, Any],
    decoding: Mapping[str, Any],
    provider: str,
) -> None:
    certificate = {**version.certificate(), **decoding}
    for precision, result in results.items():
        providers_of(certificate, precision).setdefault(provider, {})["accuracy"] = result
    record(version, certificate)


def samples_for(folder: Path, version: Version) -> list[Sample]:
    """The samples of a data set, with the class indices of the version."""
    labels = version.contract["labels"]
    samples, folders = samples_in(folder, version.dimensions.task)
    if folders and len(folders) != len(labels):
        raise InvalidData(
            f"{folder} has {len(folders)} class folders, but {version.name} has "
            f"{len(labels)} classes"
        )
    return in_label_order(samples, folders, labels)


def in_label_order(
    samples: list[Sample], folders: Sequence[str], labels: Sequence[str]
) -> list[Sample]:
    """Samples with the label indices of their folders' names.

    Folders with other names than the labels keep their own order.
    """
    if set(folders) != set(labels):
        return samples
    return [Sample(s.image, labels.index(folders[int(str(s.target))])) for s in samples]
