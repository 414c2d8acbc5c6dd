"""Compare smooth with nearest edges of masks: accuracy on labelled photos, time and memory.

    python -m tests.benchmarks.masks camvid11/val

prints the mIoU of both at the size of the label maps, for photos that the model sees at its own
size, and at about a half and a quarter of it: then its labels are enlarged as those of larger
photos are. The times are of one core, the medians of some runs on the scores of one
photo; the memory is the most that was allocated meanwhile, including the result."""

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model_export.comparison.evaluation import Predict, segmentation_accuracy
from model_export.comparison.predictors import graph_predictor
from model_export.entry.version import open_version
from model_export.preprocessing import Preprocessing, Squash, open_image
from model_export.samples import image_label_pairs
from service.images.masks import scale_labels
from service.images.polygons import class_polygons
from service.images.scores import confidence_map, mean_confidence, smooth_labels

MODEL = "vt_fpn_camvid"
MODEL_SIZES = ((352, 480), (192, 256), (96, 128))
SIZES = ((480, 360), (1920, 1440), (4000, 3000))
RUNS = 5


def main() -> None:
    """Print the accuracy and the times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("data", type=Path, help="folder with images and labels")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"))
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    version = open_version(options.weights_dir, MODEL)
    predict = graph_predictor(version.graph(options.precision))
    samples = image_label_pairs(options.data)
    with Image.open(samples[0].image) as photo:
        size = photo.size
    for height, width in MODEL_SIZES:
        preprocessing = Preprocessing(Squash(height, width))
        figures = [
            segmentation_accuracy(each, samples, preprocessing, len(version.contract["labels"]))
            for each in (predict, _smooth(predict, size))
        ]
        nearest, smooth = (f"{100 * each['miou']:.2f} %" for each in figures)
        print(f"seen at {width}x{height}: mIoU nearest {nearest}, smooth {smooth}")
    image = version.preprocessing(open_image(samples[0].image))
    outputs = {name: values[0] for name, values in predict(image[None]).items()}
    for width, height in SIZES:
        print(f"{width}x{height}: {_costs(outputs, width, height)}")


def _smooth(predict: Predict, size: tuple[int, int]) -> Predict:
    """Return a predictor of labels at the photos' size."""

    def smooth(images: np.ndarray) -> Mapping[str, np.ndarray]:
        scores = predict(images)["scores"]
        return {"labels": np.stack([smooth_labels(each, *size) for each in scores])}

    return smooth


def _costs(outputs: Mapping[str, Any], width: int, height: int) -> str:
    scores, classes = outputs["scores"], len(outputs["scores"])
    labels = smooth_labels(scores, width, height)
    confidence = confidence_map(scores, width, height)
    steps: dict[str, Callable[[], object]] = {
        "nearest": lambda: scale_labels(outputs["labels"], width, height),
        "smooth": lambda: smooth_labels(scores, width, height),
        "confidence": lambda: confidence_map(scores, width, height),
        "means": lambda: mean_confidence(labels, confidence, classes),
        "polygons": lambda: class_polygons(
            labels, range(classes), (width, height), range(classes), tolerance=1
        ),
    }
    return ", ".join(f"{name} {_cost(step)}" for name, step in steps.items())


def _cost(step: Callable[[], object]) -> str:
    times = []
    for _ in range(RUNS):
        began = time.thread_time()
        step()
        times.append(time.thread_time() - began)
    tracemalloc.start()
    step()
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return f"{1000 * statistics.median(times):.1f} ms {megabytes:.0f} MB"


if __name__ == "__main__":
    main()
