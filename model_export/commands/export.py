"""`vt-export export`: turn a checkpoint into a verified version of a model."""

import argparse
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from model_export import checkpoint
from model_export.commands.arguments import (
    add_dimensions,
    add_repository,
    dimensions_from,
    input_size_from,
    positive,
)
from model_export.commands.inputs import photos_in, preprocessing_for
from model_export.commands.report import print_parity
from model_export.comparison.golden import golden_file, head_file
from model_export.comparison.measurement import measure
from model_export.comparison.parity import Comparison, Parity, require_parity
from model_export.comparison.predictors import reference_predictor
from model_export.entry.contract import (
    continued,
    make_certificate,
    make_contract,
    precision_section,
    provenance,
)
from model_export.entry.labels import Labels, read_labels
from model_export.entry.model_card import stub
from model_export.entry.precisions import GOLDEN, HEAD, PRECISIONS
from model_export.entry.publish import publish, staged_folder
from model_export.entry.version import CHECKPOINT, next_version, read_contract
from model_export.errors import InvalidEntry, InvalidModel
from model_export.graphs.external_data import external_files, share_weights_of
from model_export.graphs.trace import OPSET, export_graph
from model_export.models.registry import Dimensions, Task, build
from model_export.models.served import ServedModel, ServedVTResNet, served
from model_export.preprocessing import Preprocessing

SUMMARY = "Turn a checkpoint into a verified version of a model."
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
VERSION = re.compile(r"[1-9][0-9]{0,8}")
DEFAULT_MAX_BATCH_SIZE = {"classification": 32, "segmentation": 8}

Trace = Callable[[ServedModel, Task, tuple[int, int], Path], None]


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    command.add_argument(
        "checkpoint", type=Path, help=f"trained weights: {', '.join(checkpoint.SUFFIXES)}"
    )
    command.add_argument("--model", required=True, help="a registered model, such as vt_resnet18")
    command.add_argument("--name", required=True, help="name of the model in the repository")
    command.add_argument(
        "--labels", type=Path, required=True, help="label file: one label per line"
    )
    add_dimensions(command)
    command.add_argument(
        "--crop-from",
        type=positive,
        metavar="SHORT_SIDE",
        help="resize the short side of photos to this and crop the centre (default: squash)",
    )
    command.add_argument(
        "--max-batch-size",
        type=positive,
        help="largest batch to verify and serve (default: 32; segmentation: 8)",
    )
    command.add_argument(
        "--examples", type=Path, help="folder of photos to verify on and to keep with the model"
    )
    add_repository(command, "version of the model (default: the next)")


@dataclass(frozen=True)
class ExportJob:
    """A checkpoint, the model it belongs to, and the entry to write."""

    source: Path
    dimensions: Dimensions
    name: str
    labels: Labels
    preprocessing: Preprocessing
    max_batch_size: int
    weights: Path
    version: str | None = None
    examples: tuple[Path, ...] = ()


def run(options: argparse.Namespace) -> None:
    """Execute the command."""
    folder, parity = export(_job(options))
    print_parity(parity)
    print(f"wrote {folder}")


def _job(options: argparse.Namespace) -> ExportJob:
    labels = read_labels(options.labels)
    dimensions = dimensions_from(options, len(labels.names))
    return ExportJob(
        source=options.checkpoint,
        dimensions=dimensions,
        name=options.name,
        labels=labels,
        preprocessing=preprocessing_for(dimensions, input_size_from(options), options.crop_from),
        max_batch_size=options.max_batch_size or DEFAULT_MAX_BATCH_SIZE[dimensions.task],
        weights=options.weights_dir,
        version=options.version,
        examples=tuple(photos_in(options.examples)) if options.examples else (),
    )


def export(job: ExportJob, trace: Trace = export_graph) -> tuple[Path, Parity]:
    """Load, trace and compare, then publish; returns the folder of the version and the parity.

    Raises:
        ExportError: nothing was written. `VerificationFailed` if the graph differs from the
            checkpoint.
    """
    _require_valid_name(job.name)
    old = read_contract(job.weights / job.name)
    version = _free_version(job, old)
    network = _loaded(job)
    model = served(network, job.preprocessing.mean, job.preprocessing.std)
    with staged_folder(job.weights, job.name) as staged:
        graph = staged / PRECISIONS["fp32"].graph
        trace(model, job.dimensions.task, job.preprocessing.common_size, graph)
        _store_checkpoint(job, network, staged / CHECKPOINT)
        share_weights_of(graph, staged / CHECKPOINT)
        contract = continued(old, _contract(job, graph))
        parity, section = _compared(job, model, graph)
        (staged / GOLDEN).write_bytes(_golden(job, model))
        if isinstance(model, ServedVTResNet):
            (staged / HEAD).write_bytes(head_file(model.head))
        folder = publish(
            job.weights,
            staged,
            contract=contract,
            certificate=make_certificate(job.name, version, staged, {"fp32": section}),
            origin=provenance(job.source, OPSET),
            card=_card(contract, parity),
            examples=job.examples,
        )
    return folder, parity


def _require_valid_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidEntry(
            f"invalid model name {name!r}: use up to 64 of a-z, 0-9, '_', '-', '.', "
            "starting with a letter or digit"
        )


def _free_version(job: ExportJob, contract: Mapping[str, Any] | None) -> str:
    """The version to write, which must not exist yet."""
    version = job.version or next_version(contract)
    if not VERSION.fullmatch(version):
        raise InvalidEntry(
            f"invalid version {version!r}: a version is a positive integer of up to 9 digits"
        )
    folder = job.weights / job.name / version
    if folder.exists():
        advice = "omit --version for the next one" if job.version else "remove it or set --version"
        raise InvalidEntry(f"{folder} already exists; {advice}")
    return version


def _loaded(job: ExportJob) -> nn.Module:
    """The network with the weights of the checkpoint, in evaluation mode."""
    stored = checkpoint.read(job.source)
    _require_fit(job, stored)
    network = build(job.dimensions)
    checkpoint.load_model(network, stored, job.dimensions)
    return network.eval()


def _require_fit(job: ExportJob, stored: checkpoint.Checkpoint) -> None:
    """Require labels and a checkpoint that match the requested dimensions."""
    wanted, found = job.dimensions, stored.dimensions
    labels = len(job.labels.names)
    if labels != wanted.classes:
        raise InvalidModel(f"{labels} labels for a model of {wanted.classes} classes")
    if found is not None and found != wanted:
        raise InvalidModel(
            f"{job.source} is a {found.name} with {found.as_dict()}, "
            f"not a {wanted.name} with {wanted.as_dict()}"
        )


def _store_checkpoint(job: ExportJob, network: nn.Module, path: Path) -> None:
    """Copy a safetensors file; write a pickled checkpoint as float32 safetensors."""
    if job.source.suffix == ".safetensors":
        shutil.copyfile(job.source, path)
    else:
        checkpoint.write(path, network, job.dimensions, {}, half=False)


def _contract(job: ExportJob, graph: Path) -> dict[str, Any]:
    return make_contract(
        job.name,
        job.dimensions,
        job.labels,
        job.preprocessing,
        max_batch_size=job.max_batch_size,
        graph=graph,
    )


def _compared(job: ExportJob, model: ServedModel, graph: Path) -> tuple[Parity, dict[str, Any]]:
    """The parity, which must be within the tolerance, and the fp32 section of the certificate."""
    parity, measured = measure(
        Comparison(model, graph, job.preprocessing, job.examples, job.max_batch_size)
    )
    require_parity(parity)
    section = precision_section(
        "fp32",
        job.dimensions.task,
        {parity.provider: measured},
        external_data=external_files(graph),
    )
    return parity, section


def _golden(job: ExportJob, model: ServedModel) -> bytes:
    predict = reference_predictor(model)
    return golden_file(predict, job.dimensions.task, job.preprocessing, job.examples)


def _card(contract: Mapping[str, Any], parity: Parity) -> str:
    difference = max(parity.max_relative_difference.values())
    return stub(contract, agreement=parity.agreement, difference=difference)
