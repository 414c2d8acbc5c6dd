"""The training loop: averaged weights, mixed precision, resumable after every update."""

import csv
import dataclasses
import io
import json
import math
import os
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model_export import checkpoint
from model_export.comparison.evaluation import task_accuracy
from model_export.comparison.predictors import reference_predictor
from model_export.errors import InvalidCheckpoint
from model_export.files import write_atomically
from model_export.models.served import served
from model_export.samples import IGNORED
from model_export.training.data import (
    Batches,
    Samples,
    classification_view,
    load,
    segmentation_view,
)
from model_export.training.interruption import Interruption, TrainingInterrupted, interruption
from model_export.training.learning_curve import learning_curve
from model_export.training.multi_scale import multi_scale
from model_export.training.networks import averaged, initial_network, parameter_groups
from model_export.training.objective import Objective
from model_export.training.processes import Processes, processes, synchronised_norms
from model_export.training.progress import NoScalars, Progress, Scalars, TensorBoard
from model_export.training.recipes import learning_rate
from model_export.training.run import Run

STATE_FILE = "last.pt"
METRICS_FILE = "metrics.csv"
CURVE_FILE = "learning_curve.png"
CHECKPOINT_FILE = "checkpoint.safetensors"
TENSORBOARD_FOLDER = "tensorboard"


def train(run: Run) -> dict[str, Any]:
    """Train, or resume where the last saved state ends; returns the last metrics.

    Writes `metrics.csv` (one row per epoch), `learning_curve.png`, `last.pt` (to resume from) and,
    at the end, `checkpoint.safetensors` with the averaged weights in float16.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM arrived; the state is saved.
    """
    torch.manual_seed(run.seed)
    with processes() as own, interruption() as signals:
        trainer = Trainer(run, own)
        trainer.resume()
        return trainer.train(signals)


class Trainer:
    """The state of one run: `epoch` complete epochs, and `update` updates of the next one."""

    def __init__(self, run: Run, processes: Processes) -> None:
        run.recipe.check_task(run.dimensions.task)
        self.run = run
        self.processes = processes
        self.device = processes.device
        network = synchronised_norms(initial_network(run), processes)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = averaged(self.network, run.recipe.ema_decay)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.network, run), lr=0.0, betas=run.recipe.betas
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=run.arithmetic(self.device) == "fp16"
        )
        self.samples = Samples(run.data.train, _view(run, 0), run.dimensions.classes, run.seed)
        self.batches = Batches(len(self.samples), run.recipe.batch_size, processes, run.accumulate)
        self.objective = Objective(run, self._class_weights(), self.device)
        self.epoch = self.update = 0
        self.losses: list[float] = []
        self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []

    def _class_weights(self) -> Tensor | None:
        offset = self.run.recipe.class_weight_offset
        if offset is None:
            return None
        shares = self.samples.label_shares(self.run.dimensions.classes)
        weights = 1 / torch.log(offset + shares)
        return (weights / weights.mean()).to(self.device)

    def resume(self) -> None:
        """Continue from the state in the folder, if there is one."""
        path = self.run.directory / STATE_FILE
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["identity"] != self.run.identity():
            raise InvalidCheckpoint(
                f"{path} belongs to a run with a different model, backbone, recipe, seed or data; "
                "choose another --output folder, or remove the file to start over"
            )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.epoch, self.update = state["epoch"], state["update"]
        self.losses, self.seconds = state["losses"], state["seconds"]
        self.rows = json.loads(state["rows"])

    def _parts(self) -> Mapping[str, Any]:
        return {
            "network": self.network,
            "averaged": self.averaged,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
        }

    def train(self, signals: Interruption) -> dict[str, Any]:
        """Train the remaining epochs and return the last row of metrics."""
        recipe = self.run.recipe.changed(batch_size=self.batches.batch_size)
        progress = Progress(recipe, self.batches.updates, shown=self.processes.is_first)
        forward, scalars = self.processes.shared(self.network), self._scalars()
        while self.epoch < self.run.recipe.epochs:
            self._fit(forward, signals, progress, scalars)
            self._complete_epoch(scalars)
        scalars.close()
        if self.processes.is_first:
            self._write_checkpoint()
        return self.rows[-1]

    def _scalars(self) -> Scalars:
        if not (self.run.tensorboard and self.processes.is_first):
            return NoScalars()
        return TensorBoard(self.run.directory / TENSORBOARD_FOLDER, self._updates_done())

    def _updates_done(self) -> int:
        return self.epoch * self.batches.updates + self.update

    def _fit(
        self, forward: nn.Module, signals: Interruption, progress: Progress, scalars: Scalars
    ) -> None:
        """The rest of an epoch."""
        run, self.samples.epoch = self.run, self.epoch
        self.samples.view = _view(run, self.epoch)
        parts = load(
            self.samples, self.batches.parts(run.seed, self.epoch, self.update), run.workers
        )
        self.network.train()
        began, saved = time.perf_counter() - self.seconds, time.perf_counter()
        with progress.epoch(self.epoch, self.update):
            while self.update < self.batches.updates:
                loss = self.step(forward, list(islice(parts, run.accumulate)))
                self.losses.append(loss)
                self.update += 1
                self.seconds = time.perf_counter() - began
                progress.advance(self.update, loss)
                scalars.write(
                    {"train/loss": loss, "train/learning_rate": self._rate()}, self._updates_done()
                )
                if self.processes.any(signals.requested):
                    self._save_state()
                    raise TrainingInterrupted
                if time.perf_counter() - saved > 60 * run.save_minutes:
                    self._save_state()
                    saved = time.perf_counter()

    def _rate(self) -> float:
        done = self._updates_done() / (self.batches.updates * self.run.recipe.epochs)
        return learning_rate(self.run.recipe, done)

    def step(self, forward: nn.Module, parts: list[list[Tensor]]) -> float:
        """One update of the weights from the parts of a batch; returns the loss."""
        if not self.processes.any(any(_has_labels(targets) for _, targets in parts)):
            return 0.0  # no labelled pixel: the mean loss would be 0 / 0
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate() * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(self._backward(forward, index, *part) for index, part in enumerate(parts))
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.run.recipe.max_gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.averaged.update_parameters(self.network)
        return float(loss)

    def _backward(self, forward: nn.Module, index: int, images: Tensor, targets: Tensor) -> float:
        """Add the gradients of a part of a batch; returns its share of the batch's loss."""
        parts = self.run.accumulate
        place = [self.run.seed, self.epoch, self.update, self.processes.rank, index]
        with self.processes.exchanging(forward, index == parts - 1):
            loss = self.objective(
                forward,
                images.to(self.device, non_blocking=True),
                targets.to(self.device, non_blocking=True),
                np.random.default_rng(place),
            )
            self.scaler.scale(loss / parts).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()) / parts

    def _complete_epoch(self, scalars: Scalars) -> None:
        """Evaluate, and save the state and the metrics."""
        mean = sum(self.losses) / len(self.losses)
        if not math.isfinite(mean):
            raise InvalidCheckpoint(
                "training diverged: the loss is not finite; try a lower --learning-rate"
            )
        self.epoch, self.update, self.losses = self.epoch + 1, 0, []
        row = {"epoch": self.epoch, "train_loss": round(mean, 4)}
        row["train_seconds"], self.seconds = round(self.seconds, 1), 0.0
        if self.processes.is_first and self._is_evaluated():
            accuracy = self.evaluate()
            scalars.write(
                {f"val/{name}": accuracy[name] for name in accuracy}, self._updates_done()
            )
            row |= accuracy
        self.rows.append(row)
        if self.processes.is_first:
            print(json.dumps(row), flush=True)
            self._save_state()
            self._save_metrics()

    def _is_evaluated(self) -> bool:
        is_last = self.epoch == self.run.recipe.epochs
        return is_last or self.epoch % self.run.evaluate_every == 0

    def evaluate(self) -> dict[str, float]:
        """Accuracy of the averaged weights on the validation samples."""
        run = self.run
        model = served(self.averaged.module, run.preprocessing.mean, run.preprocessing.std)
        accuracy = self._accuracy(model)
        if run.evaluation_scales:
            more = self._accuracy(multi_scale(model, run.evaluation_scales))
            accuracy |= {f"{name}_multi_scale": value for name, value in more.items()}
        return accuracy

    def _accuracy(self, model: Any) -> dict[str, float]:
        predict = reference_predictor(model, self.device)
        run = self.run
        metrics = task_accuracy(predict, run.data.validation, run.preprocessing, run.dimensions)
        return {name: value for name, value in metrics.items() if name != "iou"}

    def _save_state(self) -> None:
        if not self.processes.is_first:
            return
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {
            "identity": self.run.identity(),
            "epoch": self.epoch,
            "update": self.update,
            "losses": self.losses,
            "seconds": self.seconds,
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

    def _write_checkpoint(self) -> None:
        metadata = {
            "recipe": json.dumps(dataclasses.asdict(self.run.recipe)),
            "metrics": json.dumps(self.rows[-1]),
            "seed": str(self.run.seed),
            "hold_out": str(self.run.hold_out),
            "seconds": str(round(sum(row["train_seconds"] for row in self.rows))),
            "device": _device_name(self.device),
        }
        path = self.run.directory / CHECKPOINT_FILE
        checkpoint.write(path, self.averaged.module, self.run.dimensions, metadata)


def _has_labels(targets: Tensor) -> bool:
    return targets.dim() == 1 or bool((targets != IGNORED).any())


def _view(run: Run, epoch: int) -> Any:
    size = run.recipe.input_size(epoch)
    if run.dimensions.task == "classification":
        return classification_view(run.recipe, size)
    return segmentation_view(run.recipe, size)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores"
