"""Segmentation: from photos to class areas, masks and overlays."""

import base64
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Literal

import numpy as np

from service.engine.call import Call
from service.errors import InvalidRequest
from service.images.masks import Labels, class_areas, mask_png, scale_labels
from service.images.overlays import Picture, PictureChoice, overlay
from service.images.photo import EncodedOrPrepared, Photo, PreparedImage
from service.images.run_lengths import run_lengths
from service.runtime.arrays import Array
from service.runtime.image_threads import ImageThreads
from service.schema.contract import Contract
from service.schema.predictions import PngMask, RleMask, Segmentation, SegmentResponse

MaskFormat = Literal["png", "rle", "none"]
AnyPhoto = Photo | PreparedImage
Draw = Callable[[Photo, Array, Contract], Picture]


async def segment(
    call: Call, pool: ImageThreads, images: Sequence[EncodedOrPrepared], mask: MaskFormat = "png"
) -> SegmentResponse:
    """Return the class areas of each photo, and its mask in the requested format."""
    inferred = await call.infer(images)
    identity, contract = call.instance.identity, call.instance.contract
    began = perf_counter()
    predictions = await pool.gather(
        [
            partial(_segmentation, photo, outputs["labels"], mask, contract)
            for photo, outputs in zip(inferred.photos, inferred.outputs, strict=True)
        ]
    )
    call.timings.encode = perf_counter() - began
    return SegmentResponse(model=identity.name, version=identity.version, predictions=predictions)


async def draw_mask(call: Call, pool: ImageThreads, images: Sequence[EncodedOrPrepared]) -> Picture:
    """Return the mask of a single photo as an indexed PNG."""
    return await _draw(call, pool, images, _mask)


async def draw_overlay(
    call: Call,
    pool: ImageThreads,
    images: Sequence[EncodedOrPrepared],
    choice: PictureChoice,
) -> Picture:
    """Return a single photo with its mask blended over it."""
    return await _draw(call, pool, images, partial(_overlay, choice))


async def _draw(
    call: Call, pool: ImageThreads, images: Sequence[EncodedOrPrepared], draw: Draw
) -> Picture:
    if len(images) > 1:
        raise InvalidRequest("An image response shows one photo; send one photo, or ask for JSON.")
    inferred = await call.infer(images)
    began = perf_counter()
    photo, labels = inferred.photos[0], inferred.outputs[0]["labels"]
    if not isinstance(photo, Photo):
        raise InvalidRequest("An overlay needs an image file, not a tensor; send an image file.")
    picture = await pool.run(draw, photo, labels, call.instance.contract)
    call.timings.encode = perf_counter() - began
    return picture


def _segmentation(
    photo: AnyPhoto, output: Array, mask: MaskFormat, contract: Contract
) -> Segmentation:
    labels, image = _photo_labels(photo, output), photo.prepare()
    segmentation = Segmentation(
        width=image.photo_width,
        height=image.photo_height,
        classes=class_areas(labels, contract.labels),
    )
    match mask:
        case "png":
            png = base64.b64encode(mask_png(labels, contract.colors)).decode("ascii")
            segmentation["mask"] = PngMask(format="png", data=png)
        case "rle":
            runs = run_lengths(labels, contract.labels)
            segmentation["mask"] = RleMask(format="rle", classes=runs)
    return segmentation


def _mask(photo: Photo, output: Array, contract: Contract) -> Picture:
    return Picture(mask_png(_photo_labels(photo, output), contract.colors), "image/png")


def _overlay(choice: PictureChoice, photo: Photo, output: Array, contract: Contract) -> Picture:
    drawn = overlay(photo.upright(), _photo_labels(photo, output), contract.colors)
    return choice.encode(drawn, photo.format)


def _photo_labels(photo: AnyPhoto, output: Array) -> Labels:
    """Scale the graph's label map to the photo's own size."""
    image = photo.prepare()
    return scale_labels(output.astype(np.uint8, copy=False), image.photo_width, image.photo_height)
