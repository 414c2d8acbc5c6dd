"""Command line of `vt-export`: describe, train, export, verify, quantize, evaluate."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_export import checkpoint
from model_export.commands.describe import describe, table
from model_export.commands.export import (
    DEFAULT_MAX_BATCH_SIZE,
    Conversion,
    convert,
    preprocessing_for,
)
from model_export.commands.quantize import REDUCED, quantize
from model_export.comparison.accuracy import accuracy
from model_export.comparison.measurement import measure
from model_export.comparison.parity import Comparison, Parity, require_parity
from model_export.comparison.predictors import PROVIDERS
from model_export.entry import artifact
from model_export.entry.labels import read_labels
from model_export.entry.precisions import PRECISIONS, PrecisionName
from model_export.errors import ExportError, InvalidData, InvalidEntry, InvalidModel
from model_export.models.registry import (
    TOKEN_RELATIONS,
    TOKENIZERS,
    Dimensions,
    Task,
    dimensions_of,
)
from model_export.training.data import (
    Sample,
    image_folder,
    image_label_pairs,
    photos_below,
)
from model_export.training.loop import Run, TrainingData, train
from model_export.training.recipes import RECIPES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except ExportError as error:
        print(f"vt-export: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"vt-export: {error}", file=sys.stderr)
        return ExportError.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


def _describe(options: argparse.Namespace) -> None:
    size = None if options.input_size is None else tuple(options.input_size)
    description = describe(_dimensions(options, options.model), size)
    print(json.dumps(description.as_dict(), indent=2) if options.json else table(description))


def _train(options: argparse.Namespace) -> None:
    task = dimensions_of(options.model).task
    samples, folders = _samples(options.data / "train", task)
    validation, validation_folders = _samples(options.data / "val", task)
    if validation_folders != folders:
        raise InvalidData(f"{options.data} has other classes in train than in val")
    options.classes = len(folders) if folders else options.classes
    if options.classes is None:
        raise InvalidModel("say how many --classes the label maps have")
    dimensions = _dimensions(options, options.model)
    recipe = RECIPES[task].changed(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        input_sizes=options.crop_sizes,
    )
    run = Run(
        dimensions=dimensions,
        recipe=recipe,
        data=TrainingData(samples, validation),
        preprocessing=preprocessing_for(dimensions, _size(options)),
        directory=options.output,
        backbone=options.backbone,
        initial_checkpoint=options.initial_checkpoint,
        seed=options.seed,
        workers=options.workers,
        evaluate_every=options.evaluate_every,
    )
    print(json.dumps(train(run)))


def _export(options: argparse.Namespace) -> None:
    labels = read_labels(options.labels)
    options.classes = len(labels.names)
    dimensions = _dimensions(options, options.model)
    examples = tuple(_photos(options.examples)) if options.examples else ()
    folder, parity = convert(
        Conversion(
            source=options.checkpoint,
            dimensions=dimensions,
            name=options.name,
            labels=labels,
            preprocessing=preprocessing_for(dimensions, _size(options), options.crop_from),
            max_batch_size=options.max_batch_size or DEFAULT_MAX_BATCH_SIZE[dimensions.task],
            weights=options.weights_dir,
            version=options.version,
            examples=examples,
        )
    )
    _print_parity("fp32", parity)
    print(f"wrote {folder}")


def _verify(options: argparse.Namespace) -> None:
    version = artifact.open_version(options.weights_dir, options.name, options.version)
    certificate = version.certificate()
    model = version.served_model()
    photos = _photos(options.images) if options.images else version.examples
    for name in _precisions(options, version):
        comparison = Comparison(
            model,
            version.graph(name),
            version.preprocessing,
            photos,
            version.contract["max_batch_size"],
            precision=name,
            provider=PROVIDERS[options.execution_provider],
        )
        parity, section = measure(comparison)
        _print_parity(name, parity)
        require_parity(parity)
        providers = certificate["precisions"][name]["execution_providers"]
        providers[parity.provider] = providers.get(parity.provider, {}) | section
    version.check_files()
    if options.record:
        artifact.record(version, certificate)


def _quantize(options: argparse.Namespace) -> None:
    version = artifact.open_version(options.weights_dir, options.name, options.version)
    parities = quantize(version, options.precision or REDUCED, photos_below(options.photos))
    for name, parity in parities.items():
        _print_parity(name, parity)
        print(f"wrote {version.graph(name)}")


def _evaluate(options: argparse.Namespace) -> None:
    version = artifact.open_version(options.weights_dir, options.name, options.version)
    version.check_files()
    labels = version.contract["labels"]
    samples, folders = _samples(options.data, version.dimensions.task)
    if folders and len(folders) != len(labels):
        raise InvalidData(
            f"{options.data} has {len(folders)} class folders, {options.name} has {len(labels)}"
        )
    results = accuracy(
        version,
        _precisions(options, version),
        _by_label(samples, folders, labels) if folders else samples,
        data=options.data_name or options.data.name,
        provider=PROVIDERS[options.execution_provider],
    )
    print(json.dumps(results, indent=2))
    if options.record:
        certificate = version.certificate()
        for name, result in results.items():
            providers = certificate["precisions"][name]["execution_providers"]
            providers.setdefault(PROVIDERS[options.execution_provider], {})["accuracy"] = result
        artifact.record(version, certificate)


def _precisions(options: argparse.Namespace, version: artifact.Version) -> list[PrecisionName]:
    """Those that were asked for, by default all that the version has."""
    there: list[PrecisionName] = list(version.certificate()["precisions"])
    missing = [name for name in options.precision or () if name not in there]
    if missing:
        raise InvalidEntry(f"{version.name} {version.version} has no {missing[0]} graph")
    return options.precision or there


def _print_parity(precision: PrecisionName, parity: Parity) -> None:
    print(
        f"torch against {precision} ({parity.provider}): {parity.real_images} photos, "
        f"{parity.random_images} random images, batches {parity.batches}, sizes {parity.sizes}"
    )
    for name, difference in parity.max_absolute_difference.items():
        relative = parity.max_relative_difference[name]
        print(f"  {name}: largest difference {difference:.2e}, relative {relative:.2e}")
    print(f"  answers that agree: {parity.agreement:.4%}")


def _samples(folder: Path, task: Task) -> tuple[list[Sample], list[str]]:
    return image_folder(folder) if task == "classification" else (image_label_pairs(folder), [])


def _by_label(samples: list[Sample], folders: list[str], labels: list[str]) -> list[Sample]:
    """Folders that are named like the labels count by name, others by their sorted order."""
    if set(folders) != set(labels):
        return samples
    return [Sample(s.image, labels.index(folders[int(str(s.target))])) for s in samples]


def _photos(folder: Path) -> list[Path]:
    photos = artifact.files_in(folder)
    if not photos:
        raise InvalidData(f"{folder} holds no photos")
    return photos


def _size(options: argparse.Namespace) -> tuple[int, int] | None:
    return None if options.input_size is None else (options.input_size[0], options.input_size[1])


def _dimensions(options: argparse.Namespace, model: str) -> Dimensions:
    return dimensions_of(
        model,
        classes=options.classes,
        tokenizer=options.tokenizer,
        token_relation=options.token_relation,
        tokens=options.tokens,
        projector=options.projector,
        stride_in_1x1=options.stride_in_1x1,
        heads=options.heads,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _crop_size(text: str) -> tuple[int, int]:
    """`96` or `256x320`, height first."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vt-export", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_describe(commands)
    _add_train(commands)
    _add_export(commands)
    _add_verify(commands)
    _add_quantize(commands)
    _add_evaluate(commands)
    return parser


def _add_command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def _add_describe(commands: Any) -> None:
    command = _add_command(commands, "describe", _describe, "parameters and MACs, layer by layer")
    command.add_argument("model", metavar="MODEL", help="a registered model, vt_resnet18 ...")
    _add_dimensions(command)
    command.add_argument("--classes", type=int, help="default: 1000, for segmentation 54")
    command.add_argument("--json", action="store_true", help="one JSON object, no table")


def _add_train(commands: Any) -> None:
    command = _add_command(commands, "train", _train, "train from scratch, or from weights")
    command.add_argument("data", type=Path, help="a folder with train/ and val/")
    command.add_argument("--model", required=True)
    command.add_argument("--output", type=Path, required=True, help="a folder; resumed if begun")
    start = command.add_mutually_exclusive_group()
    start.add_argument("--backbone", type=Path, help="a ResNet checkpoint to start the trunk from")
    start.add_argument("--initial-checkpoint", type=Path, help="the model's own, to fine-tune it")
    _add_dimensions(command)
    command.add_argument("--classes", type=int, help="of label maps; ids from there on are ignored")
    command.add_argument("--epochs", type=_positive)
    command.add_argument("--batch-size", type=_positive)
    command.add_argument("--learning-rate", type=float)
    command.add_argument(
        "--crop-sizes",
        type=_crop_size,
        nargs="+",
        metavar="SIZE",
        help="training crops, in stages of equal length: 96 128 160, or 256x320",
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--workers", type=int, default=1, help="processes that make the crops")
    command.add_argument("--evaluate-every", type=_positive, default=1, metavar="EPOCHS")


def _add_export(commands: Any) -> None:
    command = _add_command(commands, "export", _export, "checkpoint to verified repository entry")
    command.add_argument("checkpoint", type=Path, help=", ".join(checkpoint.SUFFIXES))
    command.add_argument("--model", required=True)
    command.add_argument("--name", required=True, help="the model's name in the repository")
    command.add_argument("--labels", type=Path, required=True, help="one label a line")
    _add_dimensions(command)
    command.add_argument(
        "--crop-from",
        type=_positive,
        metavar="SHORT_SIDE",
        help="bring a photo's short side to this and cut the centre; default: squash the photo",
    )
    command.add_argument("--max-batch-size", type=_positive)
    command.add_argument("--examples", type=Path, help="a folder of photos that the entry carries")
    _add_repository(command)


def _add_verify(commands: Any) -> None:
    command = _add_command(commands, "verify", _verify, "compare a graph with its checkpoint")
    command.add_argument("name")
    command.add_argument("--images", type=Path, help="photos; default: the entry's examples")
    _add_measurement(command)
    _add_repository(command)


def _add_quantize(commands: Any) -> None:
    command = _add_command(commands, "quantize", _quantize, "add int8 and float16 graphs")
    command.add_argument("name")
    command.add_argument("photos", type=Path, help="a folder of photos to calibrate int8 on")
    command.add_argument("--precision", nargs="+", choices=REDUCED, help="default: both")
    _add_repository(command)


def _add_evaluate(commands: Any) -> None:
    command = _add_command(commands, "evaluate", _evaluate, "accuracy through ONNX Runtime")
    command.add_argument("name")
    command.add_argument("data", type=Path, help="class folders, or images/ and labels/")
    _add_measurement(command)
    command.add_argument("--data-name", help="the data's name in the certificate")
    _add_repository(command)


def _add_measurement(command: argparse.ArgumentParser) -> None:
    command.add_argument("--precision", nargs="+", choices=PRECISIONS, help="default: all there")
    command.add_argument("--execution-provider", choices=PROVIDERS, default="cpu")
    command.add_argument("--record", action="store_true", help="write it into the certificate")


def _add_repository(command: argparse.ArgumentParser) -> None:
    command.add_argument("--weights-dir", type=Path, default=Path("weights"))
    command.add_argument("--version", help="default: the next for export, else the newest")


def _add_dimensions(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("dimensions")
    group.add_argument("--tokenizer", choices=TOKENIZERS)
    group.add_argument("--token-relation", choices=TOKEN_RELATIONS)
    group.add_argument("--tokens", type=int, help="per VT module, or per pyramid level")
    group.add_argument("--no-projector", dest="projector", action="store_false", default=None)
    group.add_argument("--stride-in-1x1", action="store_true", default=None)
    group.add_argument("--heads", type=int, help="of the transformer over the tokens")
    group.add_argument("--input-size", type=int, nargs=2, metavar=("H", "W"))


if __name__ == "__main__":
    sys.exit(main())
