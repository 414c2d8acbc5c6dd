"""Accuracy of a predictor, a PyTorch module or a graph, on a data set."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from model_export.errors import InvalidData
from model_export.files import sha256
from model_export.models.registry import Dimensions
from model_export.preprocessing import Preprocessing, RgbArray
from model_export.samples import IGNORED, Sample, load_labels

Outputs = Mapping[str, npt.NDArray[Any]]
Predict = Callable[[RgbArray], Outputs]
"""UINT8 `[B, H, W, 3]` to the outputs by name."""


class Agreement:
    """A predictor that counts how often its answers equal those of a reference."""

    def __init__(self, predict: Predict, reference: Predict) -> None:
        self._predict = predict
        self._reference = reference
        self._equal = 0
        self._answers = 0

    def __call__(self, images: RgbArray) -> Outputs:
        """The outputs of the predictor."""
        outputs = self._predict(images)
        same = answers(outputs) == answers(self._reference(images))
        self._equal, self._answers = self._equal + int(same.sum()), self._answers + same.size
        return outputs

    @property
    def share(self) -> float:
        """The share of equal top-1 classes or pixels over all images so far."""
        return self._equal / self._answers


def answers(outputs: Outputs) -> npt.NDArray[Any]:
    """The class of each image, or of each pixel."""
    return outputs["labels"] if "labels" in outputs else outputs["logits"].argmax(axis=1)


def data_sha256(samples: Sequence[Sample]) -> str:
    """SHA-256 of the hashes of all images and targets, in the order of the samples."""
    digest = hashlib.sha256()
    for sample in samples:
        target = sample.target
        digest.update(sha256(sample.image).encode())
        digest.update((sha256(target) if isinstance(target, Path) else str(target)).encode())
    return digest.hexdigest()


def task_accuracy(
    predict: Predict,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    dimensions: Dimensions,
) -> dict[str, Any]:
    """The accuracy metrics of the model's task."""
    if dimensions.task == "classification":
        return dict(classification_accuracy(predict, samples, preprocessing))
    return segmentation_accuracy(predict, samples, preprocessing, dimensions.classes)


def classification_accuracy(
    predict: Predict,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    batch_size: int = 32,
) -> dict[str, float]:
    """`top1` and `top5`: the share of images whose class has the best, or a best-five, score.

    A tie counts as a miss, and so does NaN: constant logits recognise nothing.
    """
    ranks = []
    for batch, images in batches(samples, preprocessing, batch_size):
        logits = predict(images)["logits"]
        truth = np.array([sample.target for sample in batch])
        own = np.take_along_axis(logits, truth[:, None], axis=1)
        ranks.append((~(logits < own)).sum(axis=1) - 1)
    rank = np.concatenate(ranks)
    return {"top1": float((rank < 1).mean()), "top5": float((rank < 5).mean())}


def segmentation_accuracy(
    predict: Predict,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    classes: int,
    batch_size: int = 4,
) -> dict[str, Any]:
    """`miou`, `pixel_accuracy` and `iou` by class, at the resolution of the label maps.

    IoU of a class = true positives / (true positives + false positives + false negatives), over
    all images together. Classes without any pixel do not count in the mean.

    Raises:
        InvalidData: no pixel is labelled.
    """
    return _segmentation_metrics(
        _confusion_over(predict, samples, preprocessing, classes, batch_size)
    )


def _confusion_over(
    predict: Predict,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    classes: int,
    batch_size: int,
) -> npt.NDArray[np.int64]:
    """Counts `[truth, predicted]` over the labelled pixels of all samples."""
    confusion = np.zeros((classes, classes), np.int64)
    for batch, images in batches(samples, preprocessing, batch_size):
        for sample, predicted in zip(batch, predict(images)["labels"], strict=True):
            truth = load_labels(Path(str(sample.target)), classes)
            confusion += _confusion(truth, _resized_labels(predicted, truth.shape), classes)
    if not confusion.any():
        raise InvalidData("the label maps contain no labelled pixels")
    return confusion


def _segmentation_metrics(confusion: npt.NDArray[np.int64]) -> dict[str, Any]:
    hits = np.diag(confusion).astype(float)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    iou = np.divide(hits, union, out=np.full(len(confusion), np.nan), where=union > 0)
    return {
        "miou": float(np.nanmean(iou)),
        "pixel_accuracy": float(hits.sum() / confusion.sum()),
        "iou": [None if np.isnan(value) else float(value) for value in iou],
    }


def _resized_labels(labels: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> RgbArray:
    if labels.shape == shape:
        return labels
    height, width = shape
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def _confusion(truth: RgbArray, predicted: RgbArray, classes: int) -> npt.NDArray[np.int64]:
    """Counts `[truth, predicted]` over the labelled pixels of one image."""
    known = truth != IGNORED
    pairs = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def batches(
    samples: Sequence[Sample], preprocessing: Preprocessing, batch_size: int
) -> Iterator[tuple[list[Sample], RgbArray]]:
    """Batches in the order of the samples; all images of a batch have the same shape."""
    batch: list[Sample] = []
    images: list[RgbArray] = []
    for sample in tqdm(samples, desc="evaluate", unit="image", disable=None, leave=False):
        image = preprocessing.read(sample.image)
        if batch and (len(batch) == batch_size or image.shape != images[0].shape):
            yield batch, np.stack(images)
            batch, images = [], []
        batch.append(sample)
        images.append(image)
    if batch:
        yield batch, np.stack(images)
