"""From photos to predictions: decode, infer, postprocess. No HTTP here."""

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from service.contract import Contract, Preprocessing
from service.errors import ServiceError
from service.model_instance import ModelInstance
from service.postprocessing import (
    Labels,
    class_areas,
    mask_png,
    overlay_png,
    run_lengths,
    scale_labels,
    top_classes,
)
from service.preprocessing import ImageLimits, PreparedImage, decode, prepare
from service.protocol import (
    Classification,
    ClassifyResponse,
    PngMask,
    RleMask,
    Segmentation,
    SegmentResponse,
)
from service.session import Array
from service.stage_timer import StageTimer
from service.worker_pool import WorkerPool

MaskFormat = Literal["png", "rle", "none"]


@dataclass(frozen=True)
class Inferred:
    """Prepared images with the output that answers the model's task, image by image."""

    images: list[PreparedImage]
    outputs: list[Array]


class PhotoInference:
    """What both tasks begin with: decode in the pool, then run the model."""

    def __init__(self, pool: WorkerPool, limits: ImageLimits) -> None:
        self.pool = pool
        self.limits = limits

    async def infer(
        self, instance: ModelInstance, photos: Sequence[bytes], timer: StageTimer
    ) -> Inferred:
        """Return the model's answer to each photo, in order."""
        with instance.reserve(len(photos)):
            with timer.stage("decode"):
                images = await self._prepare(photos, instance.contract.preprocessing)
            return Inferred(images, await _infer(instance, images, timer))

    async def _prepare(
        self, photos: Sequence[bytes], preprocessing: Preprocessing
    ) -> list[PreparedImage]:
        return await self.pool.gather(
            partial(_prepare_nth, index, photo, preprocessing, self.limits)
            for index, photo in enumerate(photos)
        )


class Classifier:
    """Photos to classes."""

    def __init__(self, inference: PhotoInference) -> None:
        self._inference = inference

    async def classify(
        self, instance: ModelInstance, photos: Sequence[bytes], top_k: int, timer: StageTimer
    ) -> ClassifyResponse:
        """Return the likeliest classes of each photo."""
        inferred = await self._inference.infer(instance, photos, timer)
        with timer.stage("encode"):
            logits = np.stack(inferred.outputs).astype(np.float32)
            rows = top_classes(logits, instance.contract.labels, top_k)
        return ClassifyResponse(
            model=instance.identity.name,
            version=instance.identity.version,
            predictions=[Classification(classes=classes) for classes in rows],
        )


class Segmenter:
    """Photos to areas and masks."""

    def __init__(self, inference: PhotoInference) -> None:
        self._inference = inference

    async def segment(
        self, instance: ModelInstance, photos: Sequence[bytes], mask: MaskFormat, timer: StageTimer
    ) -> SegmentResponse:
        """Return the areas of each photo, and its mask in the format asked for."""
        inferred = await self._inference.infer(instance, photos, timer)
        with timer.stage("encode"):
            predictions = await self._inference.pool.gather(
                partial(_segmentation, image, output, mask, instance.contract)
                for image, output in zip(inferred.images, inferred.outputs, strict=True)
            )
        return SegmentResponse(
            model=instance.identity.name,
            version=instance.identity.version,
            predictions=predictions,
        )

    async def mask(self, instance: ModelInstance, photo: bytes, timer: StageTimer) -> bytes:
        """Return the photo's mask as a PNG."""
        inferred = await self._inference.infer(instance, [photo], timer)
        with timer.stage("encode"):
            return await self._inference.pool.run(
                _mask, inferred.images[0], inferred.outputs[0], instance.contract
            )

    async def overlay(self, instance: ModelInstance, photo: bytes, timer: StageTimer) -> bytes:
        """Return the photo with its mask blended over it, as a PNG."""
        inferred = await self._inference.infer(instance, [photo], timer)
        with timer.stage("encode"):
            return await self._inference.pool.run(
                _overlay, photo, inferred.outputs[0], instance.contract, self._inference.limits
            )


def _prepare_nth(
    index: int, photo: bytes, preprocessing: Preprocessing, limits: ImageLimits
) -> PreparedImage:
    try:
        return prepare(photo, preprocessing, limits)
    except ServiceError as error:
        raise type(error)(f"Image {index} is refused: {error}.") from error


async def _infer(
    instance: ModelInstance, images: Sequence[PreparedImage], timer: StageTimer
) -> list[Array]:
    prediction = instance.contract.prediction
    started = time.perf_counter()
    inference = await instance.infer([image.pixels for image in images], [prediction])
    waited = time.perf_counter() - started - inference.compute_seconds
    timer.add("queue", max(0.0, waited))
    timer.add("compute", inference.compute_seconds)
    return [outputs[prediction] for outputs in inference.outputs]


def _segmentation(
    image: PreparedImage, output: Array, mask: MaskFormat, contract: Contract
) -> Segmentation:
    labels = _photo_labels(image, output)
    return Segmentation(
        width=image.photo_width,
        height=image.photo_height,
        classes=class_areas(labels, contract.labels),
        mask=_encode_mask(labels, mask, contract),
    )


def _encode_mask(labels: Labels, mask: MaskFormat, contract: Contract) -> PngMask | RleMask | None:
    match mask:
        case "png":
            png = mask_png(labels, contract.colors)
            return PngMask(data=base64.b64encode(png).decode("ascii"))
        case "rle":
            return RleMask(classes=run_lengths(labels, contract.labels))
        case "none":
            return None


def _mask(image: PreparedImage, output: Array, contract: Contract) -> bytes:
    return mask_png(_photo_labels(image, output), contract.colors)


def _overlay(photo: bytes, output: Array, contract: Contract, limits: ImageLimits) -> bytes:
    """Decode the photo again: what waited for the model was the small image only."""
    image = decode(photo, contract.preprocessing, limits)
    labels = scale_labels(output.astype(np.uint8, copy=False), *image.size)
    return overlay_png(image, labels, contract.colors)


def _photo_labels(image: PreparedImage, output: Array) -> Labels:
    return scale_labels(output.astype(np.uint8, copy=False), image.photo_width, image.photo_height)
