"""From a trained checkpoint to a verified entry of the model repository."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from model_export import checkpoint
from model_export.commands.describe import check_input_size
from model_export.comparison.golden import GOLDEN, golden_file
from model_export.comparison.measurement import measure
from model_export.comparison.parity import Comparison, Parity, require_parity
from model_export.comparison.predictors import reference_predictor
from model_export.entry import artifact
from model_export.entry.labels import Labels
from model_export.entry.model_card import stub
from model_export.entry.precisions import PRECISIONS
from model_export.errors import InvalidEntry, InvalidModel
from model_export.graphs.external_data import external_files, share_weights_of
from model_export.graphs.trace import OPSET, export_graph
from model_export.models.registry import Dimensions, build
from model_export.models.served import served
from model_export.preprocessing import Buckets, Crop, Preprocessing, Squash

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
DEFAULT_MAX_BATCH_SIZE = {"classification": 32, "segmentation": 8}
DEFAULT_INPUT_SIZES = {"classification": (224, 224), "segmentation": (512, 512)}


@dataclass(frozen=True)
class Conversion:
    """What to export, under which name, with which contract."""

    source: Path
    dimensions: Dimensions
    name: str
    labels: Labels
    preprocessing: Preprocessing
    max_batch_size: int
    weights: Path
    version: str | None = None
    examples: tuple[Path, ...] = ()


def preprocessing_for(
    dimensions: Dimensions, size: tuple[int, int] | None, short_side: int | None = None
) -> Preprocessing:
    """Squash to a classifier's one size, or crop it from a photo brought to a short side.

    A segmenter gets buckets around its own short side.
    """
    height, width = size or DEFAULT_INPUT_SIZES[dimensions.task]
    check_input_size(dimensions, (height, width))
    if dimensions.task == "segmentation":
        return Preprocessing(Buckets.around(min(height, width)))
    if short_side is None:
        return Preprocessing(Squash(height, width))
    if short_side < max(height, width):
        raise InvalidModel(f"a short side of {short_side} is less than the crop {height}x{width}")
    return Preprocessing(Crop(short_side, height, width))


def convert(conversion: Conversion) -> tuple[Path, Parity]:
    """Load, trace, compare, and only then write; returns the version's folder and the numbers.

    Raises:
        ExportError: nothing was written. `VerificationFailed` where the graph is not equal.
    """
    contract = artifact.read_contract(conversion.weights / _checked_name(conversion.name))
    version = _checked_version(conversion, contract)
    network = _loaded(conversion)
    model = served(network, conversion.preprocessing.mean, conversion.preprocessing.std)
    with artifact.staged_folder(conversion.weights, conversion.name) as staged:
        graph = staged / PRECISIONS["fp32"].graph
        export_graph(model, conversion.dimensions.task, conversion.preprocessing.common_size, graph)
        _store_checkpoint(conversion, network, staged / artifact.CHECKPOINT)
        share_weights_of(graph, staged / artifact.CHECKPOINT)
        new = artifact.make_contract(
            conversion.name,
            conversion.dimensions,
            conversion.labels,
            conversion.preprocessing,
            max_batch_size=conversion.max_batch_size,
            graph=graph,
        )
        if contract is not None:
            artifact.check_same_model(contract, new)
            new |= {key: contract[key] for key in artifact.SERVING_DEFAULTS if key in contract}
        parity, section = measure(
            Comparison(
                model,
                graph,
                conversion.preprocessing,
                conversion.examples,
                conversion.max_batch_size,
            )
        )
        require_parity(parity)
        golden = golden_file(
            reference_predictor(model),
            conversion.dimensions.task,
            conversion.preprocessing,
            conversion.examples,
        )
        (staged / GOLDEN).write_bytes(golden)
        certificate = artifact.make_certificate(
            conversion.name,
            version,
            staged,
            {
                "fp32": artifact.precision_section(
                    "fp32",
                    conversion.dimensions.task,
                    {parity.provider: section},
                    external_data=external_files(graph),
                )
            },
        )
        folder = artifact.publish(
            conversion.weights,
            staged,
            contract=new,
            certificate=certificate,
            origin=artifact.provenance(conversion.source, OPSET),
            card=stub(new, parity),
            examples=conversion.examples,
        )
    return folder, parity


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidEntry(
            f"{name!r} is no name for a model: use up to 64 of a-z, 0-9, '_', '-', '.'"
        )
    return name


def _checked_version(conversion: Conversion, contract: Mapping[str, Any] | None) -> str:
    version = conversion.version or artifact.next_version(contract)
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise InvalidEntry(f"a version is a positive integer, not {version!r}")
    if (conversion.weights / conversion.name / version).exists():
        raise InvalidEntry(
            f"{conversion.name} has a version {version} already; leave --version out for the next"
        )
    return version


def _loaded(conversion: Conversion) -> nn.Module:
    dimensions, labels = conversion.dimensions, conversion.labels
    if len(labels.names) != dimensions.classes:
        raise InvalidModel(
            f"{len(labels.names)} labels do not fit a model of {dimensions.classes} classes"
        )
    stored = checkpoint.read(conversion.source)
    if stored.dimensions is not None and stored.dimensions != dimensions:
        raise InvalidModel(
            f"{conversion.source} is a {stored.dimensions.name} with "
            f"{stored.dimensions.as_dict()}, "
            f"not a {dimensions.name} with {dimensions.as_dict()}"
        )
    network = build(dimensions)
    checkpoint.load_model(network, stored, dimensions)
    return network.eval()


def _store_checkpoint(conversion: Conversion, network: nn.Module, path: Path) -> None:
    """Keep a safetensors file as it is; write what came pickled as float32 safetensors."""
    if conversion.source.suffix == ".safetensors":
        shutil.copyfile(conversion.source, path)
    else:
        checkpoint.write(path, network, conversion.dimensions, {}, half=False)
