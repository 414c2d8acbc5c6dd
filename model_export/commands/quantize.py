"""Add the int8 and float16 graphs of a version, each measured before it gets its name."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_export.comparison.evaluation import data_sha256
from model_export.comparison.golden import GOLDEN, golden_images, golden_outputs
from model_export.comparison.measurement import measure
from model_export.comparison.parity import Comparison, Parity, require_parity
from model_export.comparison.predictors import graph_predictor
from model_export.entry import artifact
from model_export.entry.artifact import Version
from model_export.entry.precisions import PRECISIONS, PrecisionName
from model_export.graphs.external_data import external_files
from model_export.graphs.fp16 import fp16_graph
from model_export.graphs.int8 import calibration_sample, int8_graph
from model_export.models.served import ServedModel
from model_export.training.data import Sample

REDUCED: tuple[PrecisionName, ...] = ("int8", "fp16")


def quantize(
    version: Version, names: Sequence[PrecisionName], photos: Sequence[Path]
) -> dict[PrecisionName, Parity]:
    """Write the graphs of these precisions and what was measured of them; returns the parities.

    `photos` calibrate int8. Accuracies that the certificate holds of an earlier graph of the same
    precision are dropped: `evaluate` measures them.

    Raises:
        ExportError: nothing was written. `VerificationFailed` where a graph is too far off.
    """
    version.check_files()
    certificate = version.certificate()
    model, sample = version.served_model(), calibration_sample(photos)
    parities: dict[PrecisionName, Parity] = {}
    with artifact.staged_folder(version.folder.parent.parent, version.name) as staged:
        shutil.copyfile(version.folder / artifact.CHECKPOINT, staged / artifact.CHECKPOINT)
        for name in names:
            _write_graph(version, name, sample, staged)
            parities[name], section = _measured(version, model, name, staged)
            require_parity(parities[name])
            certificate["precisions"][name] = section | _calibration(name, sample)
        (staged / artifact.CHECKPOINT).unlink()
        new = artifact.certified_files(staged)
        for file in new:
            (staged / file).replace(version.folder / file)
    certificate["files"] |= new
    artifact.record(version, certificate)
    return parities


def _write_graph(
    version: Version, name: PrecisionName, photos: Sequence[Path], staged: Path
) -> None:
    if name == "int8":
        content = int8_graph(version.graph(), version.preprocessing, photos)
    else:
        content = fp16_graph(version.graph(), version.folder / artifact.CHECKPOINT)
    (staged / PRECISIONS[name].graph).write_bytes(content)


def _measured(
    version: Version, model: ServedModel, name: PrecisionName, staged: Path
) -> tuple[Parity, dict[str, Any]]:
    precision = PRECISIONS[name]
    graph = staged / precision.graph
    if precision.golden_outputs != GOLDEN:
        images = golden_images(version.folder / GOLDEN)
        outputs = golden_outputs(graph_predictor(graph), version.dimensions.task, images)
        (staged / precision.golden_outputs).write_bytes(outputs)
    parity, measured = measure(
        Comparison(
            model,
            graph,
            version.preprocessing,
            version.examples,
            version.contract["max_batch_size"],
            precision=name,
        )
    )
    section = artifact.precision_section(
        name,
        version.dimensions.task,
        {parity.provider: measured},
        external_data=external_files(graph),
    )
    return parity, section


def _calibration(name: PrecisionName, photos: Sequence[Path]) -> dict[str, Any]:
    """What int8 was calibrated on, for the certificate."""
    if name != "int8":
        return {}
    samples = [Sample(photo, 0) for photo in sorted(photos)]
    return {"calibration": {"images": len(photos), "sha256": data_sha256(samples)}}
