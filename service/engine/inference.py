"""From photos to predictions: decode, infer, postprocess. No HTTP here."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np

from service.batching.instance import ModelInstance
from service.batching.queue import Urgency
from service.engine.summary import summarize
from service.errors import InvalidRequest
from service.images.classes import top_classes
from service.images.decode import ImageLimits
from service.images.masks import Labels, class_areas, mask_png, overlay_png, scale_labels
from service.images.photo import EncodedOrPrepared, Photo, PreparedImage
from service.images.run_lengths import run_lengths
from service.runtime.image_threads import ImageThreads
from service.runtime.session import Array, Outputs
from service.schema.contract import Contract
from service.schema.predictions import (
    Classification,
    ClassifyResponse,
    PngMask,
    RleMask,
    Segmentation,
    SegmentResponse,
)
from service.telemetry.events import Events
from service.telemetry.stage_timer import StageTimer

MaskFormat = Literal["png", "rle", "none"]


@dataclass(frozen=True)
class Job:
    """One request's images, how urgent they are, and where its time goes.

    `predictions` is what answers the model's task, image by image, once it was computed.
    """

    images: Sequence[EncodedOrPrepared]
    urgency: Urgency
    timer: StageTimer
    predictions: list[Array] = field(default_factory=list)

    def with_priority(self, priority: int) -> "Job":
        """The same with another priority."""
        return replace(self, urgency=replace(self.urgency, priority=priority))


@dataclass(frozen=True)
class Inferred:
    """Prepared photos with their outputs, one by one."""

    photos: list[Photo]
    outputs: list[Outputs]


class PhotoInference:
    """What both tasks begin with: decode the photos and run the model."""

    def __init__(self, pool: ImageThreads, limits: ImageLimits, events: Events) -> None:
        self.pool = pool
        self.limits = limits
        self._events = events

    async def infer(
        self,
        instance: ModelInstance,
        job: Job,
        outputs: Sequence[str] | None = None,
        *,
        stacked: bool = False,
    ) -> Inferred:
        """Return what the model makes of each image, in order; by default what answers its task.

        Where the outputs are to be `stacked`, images for which they would differ in shape are an
        `InvalidRequest`, before any is queued.

        Where photos share batches they are decoded here, in the image threads. Where each runs
        alone its own thread decodes it: there are as many of those as cores, and the image stays
        in the core's cache.
        """
        names = [instance.contract.prediction] if outputs is None else outputs
        instance.reserve(len(job.images), job.urgency.deadline)
        try:
            photos = self._photos(instance, job)
            compared = stacked and len(photos) > 1 and _follow_the_photo(instance.contract, names)
            if instance.batches or compared:
                with job.timer.stage("decode"):
                    waiting = [photo for photo in photos if photo.prepared is None]
                    await self.pool.gather(photo.prepare for photo in waiting)
            if compared:
                _check_one_size(photos)
            inference = await instance.infer(photos, names, job.urgency)
        finally:
            instance.free(len(job.images))
        if instance.contract.prediction in names:
            job.predictions.extend(each[instance.contract.prediction] for each in inference.outputs)
        job.timer.add("queue", inference.queue_seconds)
        job.timer.add("decode", inference.decode_seconds)
        job.timer.add("compute", inference.compute_seconds)
        job.timer.batch_size = inference.batch_size
        summary = summarize(instance.contract, photos, inference.outputs)
        self._events.images_predicted(instance.identity, summary)
        return Inferred(photos, inference.outputs)

    def _photos(self, instance: ModelInstance, job: Job) -> list[Photo]:
        preprocessing = instance.contract.preprocessing
        return [
            Photo.ready(image)
            if isinstance(image, PreparedImage)
            else Photo(image, preprocessing, self.limits, index)
            for index, image in enumerate(job.images)
        ]


def _follow_the_photo(contract: Contract, outputs: Sequence[str]) -> bool:
    """Whether the shape of one of these outputs depends on the photo's."""
    return any(-1 in each.shape[1:] for each in contract.outputs if each.name in outputs)


def _check_one_size(photos: Sequence[Photo]) -> None:
    first, *others = (photo.prepare().pixels.shape[:2] for photo in photos)
    for index, size in enumerate(others, 1):
        if size != first:
            raise InvalidRequest(
                f"The model takes image 0 as {first[0]}x{first[1]} and image {index} as "
                f"{size[0]}x{size[1]}, so that their outputs do not form one tensor; send photos "
                "of one height x width at a time."
            )


class Classifier:
    """Photos to classes."""

    def __init__(self, inference: PhotoInference) -> None:
        self._inference = inference

    async def classify(self, instance: ModelInstance, job: Job, top_k: int) -> ClassifyResponse:
        """Return the likeliest classes of each photo."""
        inferred = await self._inference.infer(instance, job)
        with job.timer.stage("encode"):
            labels = instance.contract.labels
            rows = [top_classes(each["logits"], labels, top_k) for each in inferred.outputs]
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
                partial(_segmentation, photo, outputs["labels"], mask, instance.contract)
                for photo, outputs in zip(inferred.photos, inferred.outputs, strict=True)
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
                _mask, inferred.photos[0], inferred.outputs[0]["labels"], instance.contract
            )

    async def overlay(self, instance: ModelInstance, job: Job) -> bytes:
        """Return the one photo with its mask blended over it, as a PNG."""
        inferred = await self._inference.infer(instance, job)
        with job.timer.stage("encode"):
            return await self._inference.pool.run(
                _overlay, inferred.photos[0], inferred.outputs[0]["labels"], instance.contract
            )


def _segmentation(
    photo: Photo, output: Array, mask: MaskFormat, contract: Contract
) -> Segmentation:
    labels, image = _photo_labels(photo, output), photo.prepare()
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


def _mask(photo: Photo, output: Array, contract: Contract) -> bytes:
    return mask_png(_photo_labels(photo, output), contract.colors)


def _overlay(photo: Photo, output: Array, contract: Contract) -> bytes:
    return overlay_png(photo.upright(), _photo_labels(photo, output), contract.colors)


def _photo_labels(photo: Photo, output: Array) -> Labels:
    image = photo.prepare()
    return scale_labels(output.astype(np.uint8, copy=False), image.photo_width, image.photo_height)
