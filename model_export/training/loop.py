"""The training loop: averaged weights, mixed precision, resumable after each epoch."""

import csv
import dataclasses
import io
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from model_export import checkpoint
from model_export.comparison.evaluation import task_accuracy
from model_export.comparison.predictors import reference_predictor
from model_export.errors import InvalidCheckpoint
from model_export.files import write_atomically
from model_export.models.registry import Dimensions, build
from model_export.models.served import Normalisation, served
from model_export.preprocessing import Preprocessing
from model_export.samples import IGNORED, Sample
from model_export.training.data import (
    Samples,
    batches,
    classification_view,
    segmentation_view,
)
from model_export.training.learning_curve import learning_curve
from model_export.training.recipes import Recipe

STATE_FILE = "last.pt"
METRICS_FILE = "metrics.csv"
CURVE_FILE = "learning_curve.png"
CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainingData:
    """Training and validation samples."""

    train: list[Sample]
    validation: list[Sample]


@dataclass(frozen=True)
class Run:
    """One training run: model, recipe, data and the folder for the results."""

    dimensions: Dimensions
    recipe: Recipe
    data: TrainingData
    preprocessing: Preprocessing
    directory: Path
    backbone: Path | None = None
    """A ResNet checkpoint to initialise the trunk."""
    initial_checkpoint: Path | None = None
    """A checkpoint of the same model to fine-tune."""
    seed: int = 0
    workers: int = 1
    evaluate_every: int = 1

    def identity(self) -> str:
        """The settings that must be equal to resume a run, as JSON."""
        parts = {
            "dimensions": self.dimensions.as_dict(),
            "recipe": dataclasses.asdict(self.recipe),
            "seed": self.seed,
            "samples": len(self.data.train),
            "fine_tuned": self.initial_checkpoint is not None,
        }
        return json.dumps(parts, sort_keys=True)


def train(run: Run) -> dict[str, Any]:
    """Train, or resume after the last complete epoch; returns the last metrics.

    Writes `metrics.csv` (one row per epoch), `learning_curve.png`, `last.pt` (to resume from) and,
    at the end, `checkpoint.safetensors` with the averaged weights in float16.
    """
    torch.manual_seed(run.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = _Trainer(run, device)
    trainer.resume()
    while trainer.epoch < run.recipe.epochs:
        trainer.train_epoch()
    return trainer.finish()


class _Trainer:
    """The state of one run; `epoch` counts complete epochs."""

    def __init__(self, run: Run, device: torch.device) -> None:
        self.run = run
        self.device = device
        self.network = _initial_network(run)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = AveragedModel(
            self.network, multi_avg_fn=_averaging(run.recipe.ema_decay), use_buffers=True
        )
        self.normalisation = Normalisation(run.preprocessing.mean, run.preprocessing.std).to(device)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.network, run), lr=0.0, betas=run.recipe.betas
        )
        self.samples = Samples(run.data.train, _view(run, 0), run.dimensions.classes, run.seed)
        self.class_weights = self._class_weights()
        self.epoch = 0
        self.rows: list[dict[str, Any]] = []

    def _class_weights(self) -> Tensor | None:
        offset = self.run.recipe.class_weight_offset
        if offset is None:
            return None
        shares = self.samples.label_shares(self.run.dimensions.classes)
        weights = 1 / torch.log(offset + shares)
        return (weights / weights.mean()).to(self.device)

    def resume(self) -> None:
        """Continue after the last complete epoch in the folder, if there is one."""
        path = self.run.directory / STATE_FILE
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if not self._is_of_this_run(state):
            raise InvalidCheckpoint(
                f"{path} belongs to a run with a different model, backbone, recipe, seed or data; "
                "choose another --output folder, or remove the file to start over"
            )
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        self.epoch = state["epoch"]
        self.rows = json.loads(state["rows"])

    def _is_of_this_run(self, state: Mapping[str, Any]) -> bool:
        groups = state["optimizer"]["param_groups"]  # a backbone adds groups
        same_groups = len(groups) == len(self.optimizer.param_groups)
        return bool(state["identity"] == self.run.identity() and same_groups)

    def train_epoch(self) -> None:
        """Train one epoch, evaluate, and save the state and the metrics."""
        start = time.perf_counter()
        loss = self._fit()
        self.epoch += 1
        row = {"epoch": self.epoch, "train_loss": round(loss, 4)}
        row["train_seconds"] = round(time.perf_counter() - start, 1)
        last = self.epoch == self.run.recipe.epochs
        if last or self.epoch % self.run.evaluate_every == 0:
            row |= {key: value for key, value in self.evaluate().items() if key != "iou"}
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        self._save_state()
        self._save_metrics()

    def _fit(self) -> float:
        """One pass over the samples; returns the mean loss."""
        recipe, self.samples.epoch = self.run.recipe, self.epoch
        self.samples.view = _view(self.run, self.epoch)
        loader = batches(self.samples, recipe.batch_size, self.run.workers, self.run.seed)
        self.network.train()
        losses = []
        progress = tqdm(loader, desc=f"epoch {self.epoch + 1}/{recipe.epochs}", disable=None)
        for index, (images, targets) in enumerate(progress):
            done = (self.epoch + index / len(loader)) / recipe.epochs
            losses.append(self._step(images.to(self.device), targets.to(self.device), done))
            progress.set_postfix(loss=f"{losses[-1]:.3f}")
        mean = sum(losses) / len(losses)
        if not math.isfinite(mean):
            raise InvalidCheckpoint(
                "training diverged: the loss is not finite; try a lower --learning-rate"
            )
        return mean

    def _step(self, images: Tensor, targets: Tensor, done: float) -> float:
        """One update of the weights; returns the loss. `done` is as in `learning_rate`."""
        recipe, ignored = self.run.recipe, IGNORED if targets.dim() > 1 else -1
        if (targets == ignored).all():
            return 0.0  # no labelled pixel: the mean loss would be 0 / 0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, done) * group["factor"]
        loss = self._loss(images, targets, ignored)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.max_gradient_norm)
        self.optimizer.step()
        self.averaged.update_parameters(self.network)
        return float(loss.detach())

    def _loss(self, images: Tensor, targets: Tensor, ignored: int) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=_fast_bfloat16(self.device)):
            logits = self.network(self.normalisation(images))
        return functional.cross_entropy(
            logits.float(),
            targets,
            weight=self.class_weights,
            ignore_index=ignored,
            label_smoothing=self.run.recipe.label_smoothing,
        )

    def evaluate(self) -> dict[str, Any]:
        """Accuracy of the averaged weights on the validation samples."""
        model = served(
            self.averaged.module, self.run.preprocessing.mean, self.run.preprocessing.std
        )
        predict = reference_predictor(model, self.device)
        return task_accuracy(
            predict, self.run.data.validation, self.run.preprocessing, self.run.dimensions
        )

    def _save_state(self) -> None:
        state = {
            "identity": self.run.identity(),
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "rows": json.dumps(self.rows),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.run.directory / STATE_FILE, buffer.getvalue())

    def _save_metrics(self) -> None:
        text = io.StringIO()
        fields = list(dict.fromkeys(key for row in self.rows for key in row))
        writer = csv.DictWriter(text, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.run.directory / METRICS_FILE, text.getvalue().encode())
        title = f"{self.run.dimensions.name}, seed {self.run.seed}"
        write_atomically(self.run.directory / CURVE_FILE, learning_curve(self.rows, title))

    def finish(self) -> dict[str, Any]:
        """Write the averaged weights and return the last row of metrics."""
        metadata = {
            "recipe": json.dumps(dataclasses.asdict(self.run.recipe)),
            "metrics": json.dumps(self.rows[-1]),
            "seed": str(self.run.seed),
            "seconds": str(round(sum(row["train_seconds"] for row in self.rows))),
            "device": _device_name(self.device),
        }
        path = self.run.directory / CHECKPOINT_FILE
        checkpoint.write(path, self.averaged.module, self.run.dimensions, metadata)
        return self.rows[-1]


def learning_rate(recipe: Recipe, done: float) -> float:
    """Linear warm-up, then a cosine to 0; `done` is the completed fraction of all steps."""
    if done < recipe.warmup:
        return recipe.learning_rate * (0.01 + 0.99 * done / recipe.warmup)
    rest = (done - recipe.warmup) / (1 - recipe.warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * rest))


def _averaging(decay: float) -> Any:
    """Exponential moving average with a decay that grows during the first updates."""

    @torch.no_grad()
    def average(averaged: Iterable[Tensor], current: Iterable[Tensor], count: Tensor | int) -> None:
        weight = 1 - min(decay, (1 + float(count)) / (10 + float(count)))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)

    return average


def _parameter_groups(network: nn.Module, run: Run) -> list[dict[str, Any]]:
    """No weight decay for norms and biases; a separate learning rate for a loaded backbone."""
    trunk = _trunk_name(run.dimensions)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        decay = run.recipe.weight_decay if parameter.dim() > 1 else 0.0
        from_backbone = run.backbone is not None and _is_in(trunk, name)
        factor = run.recipe.backbone_learning_rate if from_backbone else 1.0
        groups.setdefault((decay, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (decay, factor), parameters in groups.items()
    ]


def _is_in(trunk: str, parameter: str) -> bool:
    """Return whether a parameter belongs to the trunk; in a plain ResNet, all but the head do."""
    return parameter.startswith(f"{trunk}.") if trunk else not parameter.startswith("fc.")


def _initial_network(run: Run) -> nn.Module:
    """A fresh network, with the weights of the run's checkpoint or backbone, if any."""
    network = build(run.dimensions)
    if run.initial_checkpoint is not None:
        source = checkpoint.read(run.initial_checkpoint)
        checkpoint.load_model(network, source, run.dimensions)
    if run.backbone is not None:
        trunk = network.get_submodule(_trunk_name(run.dimensions))
        checkpoint.load_backbone(trunk, checkpoint.read(run.backbone))  # type: ignore[arg-type]
    return network


def _trunk_name(dimensions: Dimensions) -> str:
    match dimensions.family:
        case "vt_resnet":
            return "trunk"
        case "fpn" | "vt_fpn":
            return "backbone"
        case "resnet":
            return ""


def _view(run: Run, epoch: int) -> Any:
    size = run.recipe.input_size(epoch)
    if run.dimensions.task == "classification":
        return classification_view(run.recipe, size)
    return segmentation_view(run.recipe, size)


def _fast_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores"
