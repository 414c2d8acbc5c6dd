"""`vt-export train`: train a model from scratch, from a backbone, or from its own weights."""

import argparse
import json
import sys
from pathlib import Path

from model_export.commands.arguments import (
    add_dimensions,
    crop_size,
    dimensions_from,
    input_size_from,
    positive,
    recipe_field,
)
from model_export.commands.inputs import preprocessing_for, samples_in
from model_export.errors import InvalidData, InvalidModel
from model_export.models.registry import Task, dimensions_of
from model_export.samples import held_out
from model_export.training.interruption import TrainingInterrupted
from model_export.training.loop import train
from model_export.training.processes import is_first_process
from model_export.training.recipes import RECIPES, Recipe
from model_export.training.run import AMP, Run, TrainingData

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
    _add_hardware(command)
    _add_feedback(command)


def _add_start(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--backbone", type=Path, help="ResNet checkpoint that initialises the trunk"
    )
    command.add_argument(
        "--initial-checkpoint", type=Path, help="checkpoint of the same model to fine-tune"
    )
    command.add_argument(
        "--teacher", type=Path, help="checkpoint whose answers are learned beside the labels"
    )
    command.add_argument(
        "--hold-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of train/ that is not trained on, for `calibrate` (default: 0)",
    )


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--recipe", choices=RECIPES, help="default: the recipe with the name of the task"
    )
    command.add_argument(
        "--set",
        type=recipe_field,
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="fields of the recipe to change: mixup=0.2 trivial_augment=true",
    )
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


def _add_hardware(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--amp", choices=AMP, help="arithmetic (default: bf16 if the hardware multiplies it)"
    )
    command.add_argument(
        "--accumulate",
        type=positive,
        default=1,
        metavar="PARTS",
        help="compute a batch in parts, to save memory (default: 1)",
    )


def _add_feedback(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--evaluate-every",
        type=positive,
        default=1,
        metavar="EPOCHS",
        help="epochs between evaluations on val/ (default: 1)",
    )
    command.add_argument(
        "--evaluation-scales",
        type=float,
        nargs="+",
        default=[],
        metavar="SCALE",
        help="evaluate again, averaged over these scales and mirror images: 0.75 1 1.25",
    )
    command.add_argument(
        "--save-every",
        type=float,
        default=5.0,
        metavar="MINUTES",
        help="minutes between saved states within an epoch (default: 5)",
    )
    command.add_argument("--log", choices=["tensorboard"], help="also log for TensorBoard")


def run(options: argparse.Namespace) -> None:
    """Execute the command."""
    try:
        metrics = train(_run(options))
    except TrainingInterrupted:
        print(
            f"interrupted; the state is in {options.output}, and the same command resumes",
            file=sys.stderr,
        )
        raise
    if is_first_process():
        print(json.dumps(metrics))


def _run(options: argparse.Namespace) -> Run:
    task = dimensions_of(options.model).task
    data, folders = _data(options, task)
    dimensions = dimensions_from(options, _classes(options, folders))
    return Run(
        dimensions=dimensions,
        recipe=_recipe(options, task),
        data=data,
        preprocessing=preprocessing_for(dimensions, input_size_from(options)),
        directory=options.output,
        backbone=options.backbone,
        initial_checkpoint=options.initial_checkpoint,
        teacher=options.teacher,
        seed=options.seed,
        hold_out=options.hold_out,
        workers=options.workers,
        evaluate_every=options.evaluate_every,
        evaluation_scales=tuple(options.evaluation_scales),
        amp=options.amp,
        accumulate=options.accumulate,
        save_minutes=options.save_every,
        tensorboard=options.log == "tensorboard",
    )


def _data(options: argparse.Namespace, task: Task) -> tuple[TrainingData, list[str]]:
    """The samples of both splits and the names of the class folders."""
    root = options.data
    samples, folders = samples_in(root / "train", task)
    validation, validation_folders = samples_in(root / "val", task)
    if validation_folders != folders:
        raise InvalidData(f"{root} has different class folders in train/ and val/")
    kept, _ = held_out(samples, options.hold_out)
    return TrainingData(kept, validation), folders


def _classes(options: argparse.Namespace, folders: list[str]) -> int:
    classes: int | None = len(folders) if folders else options.classes
    if classes is None:
        raise InvalidModel("training on label maps needs --classes, the number of classes")
    return classes


def _recipe(options: argparse.Namespace, task: Task) -> Recipe:
    return RECIPES[options.recipe or task].changed(
        **dict(options.set),
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        input_sizes=options.crop_sizes,
    )
