"""`vt-export quantize`: add int8 and float16 graphs to a version."""

import argparse
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_export.commands.arguments import add_version, version_from
from model_export.commands.report import print_parity
from model_export.comparison.evaluation import data_sha256
from model_export.comparison.golden import golden_images, golden_outputs
from model_export.comparison.measurement import measure
from model_export.comparison.parity import Comparison, Parity, require_parity
from model_export.comparison.predictors import graph_predictor
from model_export.entry.contract import certified_files, precision_section
from model_export.entry.precisions import GOLDEN, PRECISIONS, PrecisionName
from model_export.entry.publish import record, staged_folder
from model_export.entry.version import CHECKPOINT, Version
from model_export.graphs.external_data import external_files
from model_export.graphs.fp16 import fp16_graph
from model_export.graphs.int8 import calibration_sample, int8_graph
from model_export.models.served import ServedModel
from model_export.samples import Sample, photos_below

SUMMARY = "Add int8 and float16 graphs to a version."
REDUCED: tuple[PrecisionName, ...] = ("int8", "fp16")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_version(command)
    command.add_argument("photos", type=Path, help="folder of photos to calibrate int8")
    command.add_argument(
        "--precision", nargs="+", choices=REDUCED, help="graphs to add (default: both)"
    )


def run(options: argparse.Namespace) -> None:
    """Execute the command."""
    version = version_from(options)
    parities = quantize(version, options.precision or REDUCED, photos_below(options.photos))
    for precision, parity in parities.items():
        print_parity(parity)
        print(f"wrote {version.graph(precision)}")


def quantize(
    version: Version, precisions: Sequence[PrecisionName], photos: Sequence[Path]
) -> dict[PrecisionName, Parity]:
    """Add the graphs of these precisions and their figures; returns the parities.

    `photos` calibrate int8. Figures of an earlier graph of the same precision are dropped from the
    certificate; `evaluate` measures the accuracy of the new one.

    Raises:
        ExportError: nothing was written. `VerificationFailed` if a graph is outside its tolerance.
    """
    version.check_files()
    model, sample = version.served_model(), calibration_sample(photos)
    parities: dict[PrecisionName, Parity] = {}
    sections: dict[str, Any] = {}
    with _staged_beside_checkpoint(version) as staged:
        for precision in precisions:
            _write_graph(version, precision, sample, staged)
            parities[precision], section = _measured(version, model, precision, staged)
            require_parity(parities[precision])
            sections[precision] = section | _calibration(precision, sample)
        (staged / CHECKPOINT).unlink()
        _add_to_version(version, staged, sections)
    return parities


@contextmanager
def _staged_beside_checkpoint(version: Version) -> Iterator[Path]:
    """A staged folder with a copy of the checkpoint, which graphs may read weights from."""
    with staged_folder(version.weights, version.name) as staged:
        shutil.copyfile(version.checkpoint, staged / CHECKPOINT)
        yield staged


def _add_to_version(version: Version, staged: Path, sections: Mapping[str, Any]) -> None:
    """Move the staged files into the version and certify them."""
    certificate = version.certificate()
    files = certified_files(staged)
    for file in files:
        (staged / file).replace(version.folder / file)
    certificate["precisions"] |= sections
    certificate["files"] |= files
    record(version, certificate)


def _write_graph(
    version: Version, precision: PrecisionName, photos: Sequence[Path], staged: Path
) -> None:
    if precision == "int8":
        content = int8_graph(version.graph(), version.preprocessing, photos)
    else:
        content = fp16_graph(version.graph(), version.checkpoint)
    (staged / PRECISIONS[precision].graph).write_bytes(content)


def _measured(
    version: Version, model: ServedModel, precision: PrecisionName, staged: Path
) -> tuple[Parity, dict[str, Any]]:
    """The parity of a staged graph and its section of the certificate."""
    graph = staged / PRECISIONS[precision].graph
    _write_golden_outputs(version, precision, staged)
    parity, measured = measure(
        Comparison(
            model,
            graph,
            version.preprocessing,
            version.examples,
            version.contract["max_batch_size"],
            precision=precision,
        )
    )
    section = precision_section(
        precision,
        version.dimensions.task,
        {parity.provider: measured},
        external_data=external_files(graph),
    )
    return parity, section


def _write_golden_outputs(version: Version, precision: PrecisionName, staged: Path) -> None:
    """Write the graph's own outputs for the golden inputs, if the self-test compares with them."""
    file = PRECISIONS[precision].golden_outputs
    if file != GOLDEN:
        predict = graph_predictor(staged / PRECISIONS[precision].graph)
        images = golden_images(version.folder / GOLDEN)
        (staged / file).write_bytes(golden_outputs(predict, version.dimensions.task, images))


def _calibration(precision: PrecisionName, photos: Sequence[Path]) -> dict[str, Any]:
    """The calibration data of int8, for the certificate."""
    if precision != "int8":
        return {}
    samples = [Sample(photo, 0) for photo in sorted(photos)]
    return {"calibration": {"images": len(photos), "sha256": data_sha256(samples)}}
