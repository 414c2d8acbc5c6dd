"""`vt-export train`: train a model from scratch, from a backbone, or from its own weights."""

import argparse
import json
from pathlib import Path

from model_export.commands.arguments import (
    add_dimensions,
    crop_size,
    dimensions_from,
    input_size_from,
    positive,
)
from model_export.commands.inputs import preprocessing_for, samples_in
from model_export.errors import InvalidData, InvalidModel
from model_export.models.registry import Task, dimensions_of
from model_export.training.loop import Run, TrainingData, train
from model_export.training.recipes import RECIPES, Recipe

SUMMARY = "Train a model, or resume its training."


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    command.add_argument("data", type=Path, help="data set: a folder with train/ and val/")
    command.add_argument("--model", required=True, help="a registered model, such as vt_resnet18")
    command.add_argument(
        "--output", type=Path, required=True, help="folder for results; an existing run is resumed"
    )
    _add_start(command)
    add_dimensions(command)
    command.add_argument(
        "--classes", type=int, help="number of classes in label maps; higher ids are ignored"
    )
    _add_recipe(command)
    command.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    command.add_argument(
        "--workers", type=int, default=1, help="processes that prepare crops (default: 1)"
    )
    command.add_argument(
        "--evaluate-every",
        type=positive,
        default=1,
        metavar="EPOCHS",
        help="epochs between evaluations on val/ (default: 1)",
    )


def _add_start(command: argparse.ArgumentParser) -> None:
    start = command.add_mutually_exclusive_group()
    start.add_argument("--backbone", type=Path, help="ResNet checkpoint that initialises the trunk")
    start.add_argument(
        "--initial-checkpoint", type=Path, help="checkpoint of the same model to fine-tune"
    )


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("--epochs", type=positive, help="default: that of the recipe")
    command.add_argument("--batch-size", type=positive, help="default: that of the recipe")
    command.add_argument("--learning-rate", type=float, help="default: that of the recipe")
    command.add_argument(
        "--crop-sizes",
        type=crop_size,
        nargs="+",
        metavar="SIZE",
        help="training crops in stages of equal length: 96 128 160, or 256x320",
    )


def run(options: argparse.Namespace) -> None:
    """Execute the command."""
    task = dimensions_of(options.model).task
    data, folders = _data(options.data, task)
    dimensions = dimensions_from(options, _classes(options, folders))
    metrics = train(
        Run(
            dimensions=dimensions,
            recipe=_recipe(options, task),
            data=data,
            preprocessing=preprocessing_for(dimensions, input_size_from(options)),
            directory=options.output,
            backbone=options.backbone,
            initial_checkpoint=options.initial_checkpoint,
            seed=options.seed,
            workers=options.workers,
            evaluate_every=options.evaluate_every,
        )
    )
    print(json.dumps(metrics))


def _data(root: Path, task: Task) -> tuple[TrainingData, list[str]]:
    """The samples of both splits and the names of the class folders."""
    samples, folders = samples_in(root / "train", task)
    validation, validation_folders = samples_in(root / "val", task)
    if validation_folders != folders:
        raise InvalidData(f"{root} has different class folders in train/ and val/")
    return TrainingData(samples, validation), folders


def _classes(options: argparse.Namespace, folders: list[str]) -> int:
    classes: int | None = len(folders) if folders else options.classes
    if classes is None:
        raise InvalidModel("training on label maps needs --classes, the number of classes")
    return classes


def _recipe(options: argparse.Namespace, task: Task) -> Recipe:
    return RECIPES[task].changed(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        input_sizes=options.crop_sizes,
    )
