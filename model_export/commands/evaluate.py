"""`vt-export evaluate`: measure the accuracy of the graphs of a version."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_export.commands.arguments import (
    add_measurement,
    add_version,
    precisions_from,
    providers_of,
    version_from,
)
from model_export.commands.inputs import samples_in
from model_export.comparison.accuracy import accuracy
from model_export.entry.precisions import PrecisionName
from model_export.entry.publish import record
from model_export.entry.version import Version
from model_export.errors import InvalidData
from model_export.execution_providers import PROVIDERS
from model_export.samples import Sample

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


def run(options: argparse.Namespace) -> None:
    """Execute the command."""
    version = version_from(options)
    version.check_files()
    provider = PROVIDERS[options.execution_provider]
    results = accuracy(
        version,
        precisions_from(options, version),
        _samples(options.data, version),
        data=options.data_name or options.data.name,
        provider=provider,
    )
    print(json.dumps(results, indent=2))
    if options.record:
        _record(version, results, provider)


def _record(version: Version, results: Mapping[PrecisionName, Any], provider: str) -> None:
    certificate = version.certificate()
    for precision, result in results.items():
        providers_of(certificate, precision).setdefault(provider, {})["accuracy"] = result
    record(version, certificate)


def _samples(folder: Path, version: Version) -> list[Sample]:
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
