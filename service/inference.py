"""From photos to predictions: decode, infer, postprocess. No HTTP here."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from service.contract import Contract
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
from service.preprocessing import ImageLimits, Photo, PreparedImage, decode
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
class Job:
    """One request's photos, its deadline on the event loop's clock, and where its time goes."""

    photos: Sequence[bytes]
    deadline: float
    timer: StageTimer


@dataclass(frozen=True)
class Inferred:
    """Prepared images with the output that answers the model's task, image by image."""

    images: list[PreparedImage]
    outputs: list[Array]


class PhotoInference:
    """What both tasks begin with: decode the photos and run the model."""

    def __init__(self, pool: WorkerPool, limits: ImageLimits) -> None:
        self.pool = pool
        self.limits = limits

    async def infer(self, instance: ModelInstance, job: Job) -> Inferred:
        """Return the model's answer to each photo, in order.

        Where photos share batches they are decoded here, in the image threads. Where each runs
        alone its own thread decodes it: there are as many of those as cores, and the image stays
        in the core's cache.
        """
        preprocessing = instance.contract.preprocessing
        with instance.reserve(len(job.photos), job.deadline):
            photos = [
                Photo(data, preprocessing, self.limits, index)
                for index, data in enumerate(job.photos)
            ]
            if instance.batches:
                with job.timer.stage("decode"):
                    await self.pool.gather(photo.prepare for photo in photos)
            outputs = await _infer(instance, photos, job)
        return Inferred([photo.prepare() for photo in photos], outputs)


class Classifier:
    """Photos to classes."""

    def __init__(self, inference: PhotoInference) -> None:
        self._inference = inference

    async def classify(self, instance: ModelInstance, job: Job, top_k: int) -> ClassifyResponse:
        """Return the likeliest classes of each photo."""
        inferred = await self._inference.infer(instance, job)
        with job.timer.stage("encode"):
            labels = instance.contract.labels
            rows = [top_classes(logits, labels, top_k) for logits in inferred.outputs]
        return ClassifyResponse(
            model=instance.identity.name,
            version=instance.identity.version,
            predictions=[Classification(classes=classes) for classes in rows],
        )


class Segmenter:
    """Photos to areas and masks."""

    def __init__(self, inference: PhotoInference) -> None:
        self._inference = inference

    async def segment(self, instance: ModelInstance, job: Job, mask: MaskFormat) -> SegmentResponse:
        """Return the areas of each photo, and its mask in the format asked for."""
        inferred = await self._inference.infer(instance, job)
        with job.timer.stage("encode"):
            predictions = await self._inference.pool.gather(
                partial(_segmentation, image, output, mask, instance.contract)
                for image, output in zip(inferred.images, inferred.outputs, strict=True)
            )
        return SegmentResponse(
            model=instance.identity.name,
            version=instance.identity.version,
            predictions=predictions,
        )

    async def mask(self, instance: ModelInstance, job: Job) -> bytes:
        """Return the one photo's mask as a PNG."""
        inferred = await self._inference.infer(instance, job)
        with job.timer.stage("encode"):
            return await self._inference.pool.run(
                _mask, inferred.images[0], inferred.outputs[0], instance.contract
            )

    async def overlay(self, instance: ModelInstance, job: Job) -> bytes:
        """Return the one photo with its mask blended over it, as a PNG."""
        (photo,) = job.photos
        inferred = await self._inference.infer(instance, job)
        with job.timer.stage("encode"):
            return await self._inference.pool.run(
                _overlay, photo, inferred.outputs[0], instance.contract, self._inference.limits
            )


async def _infer(instance: ModelInstance, photos: Sequence[Photo], job: Job) -> list[Array]:
    prediction = instance.contract.prediction
    inference = await instance.infer(photos, [prediction], job.deadline)
    job.timer.add("queue", inference.queue_seconds)
    job.timer.add("decode", inference.decode_seconds)
    job.timer.add("compute", inference.compute_seconds)
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
