"""Segmentation: from photos to class areas, masks and overlays."""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from service.engine.call import Call
from service.engine.photo_mask import PhotoMask, Wanted
from service.engine.segment_options import SegmentOptions
from service.errors import InvalidRequest
from service.images.overlays import Picture, PictureChoice, overlay
from service.images.photo import EncodedOrPrepared, Photo, PreparedImage
from service.runtime.arrays import Outputs
from service.runtime.image_threads import ImageThreads
from service.schema.predictions import Segmentation, SegmentResponse

AnyPhoto = Photo | PreparedImage
DEFAULT = SegmentOptions()


Draw = Callable[[Wanted, AnyPhoto, Outputs], Picture]


async def segment(
    call: Call,
    pool: ImageThreads,
    images: Sequence[EncodedOrPrepared],
    options: SegmentOptions = DEFAULT,
) -> SegmentResponse:
    """Return the class areas of each photo, and its mask in the wanted form.

    Raises:
        InvalidRequest: the model lacks a wanted class, or the scores that an option needs.
        PayloadTooLarge: a mask is too fragmented for polygons.
    """
    wanted = Wanted.of(options, call.instance.contract)
    inferred = await call.infer(images, wanted.outputs)
    identity = call.instance.identity
    began = perf_counter()
    predictions = await pool.gather(
        [
            partial(_segmentation, wanted, photo, outputs)
            for photo, outputs in zip(inferred.photos, inferred.outputs, strict=True)
        ]
    )
    call.timings.encode = perf_counter() - began
    return SegmentResponse(model=identity.name, version=identity.version, predictions=predictions)


async def draw_mask(
    call: Call,
    pool: ImageThreads,
    images: Sequence[EncodedOrPrepared],
    options: SegmentOptions = DEFAULT,
) -> Picture:
    """Return the mask of a single photo as a PNG, or with `mask=none` its confidence."""
    shown = (options.mask, options.confidence)
    if shown not in (("png", "none"), ("grey", "none"), ("none", "png")):
        raise InvalidRequest(
            f"An image cannot show mask={options.mask} with confidence={options.confidence}; it "
            "shows mask=png or mask=grey, or mask=none with confidence=png. Ask for JSON to get "
            "more."
        )
    return await _draw(call, pool, images, options, _mask)


async def draw_overlay(
    call: Call,
    pool: ImageThreads,
    images: Sequence[EncodedOrPrepared],
    options: SegmentOptions,
    choice: PictureChoice,
) -> Picture:
    """Return a single photo with its mask blended over it."""
    if options.mask != "png" or options.confidence != "none":
        raise InvalidRequest(
            "An overlay cannot be combined with the parameters mask and confidence; remove them."
        )
    return await _draw(call, pool, images, options, partial(_overlay, choice))


async def _draw(
    call: Call,
    pool: ImageThreads,
    images: Sequence[EncodedOrPrepared],
    options: SegmentOptions,
    draw: Draw,
) -> Picture:
    if len(images) > 1:
        raise InvalidRequest("An image response shows one photo; send one photo, or ask for JSON.")
    wanted = Wanted.of(options, call.instance.contract)
    inferred = await call.infer(images, wanted.outputs)
    began = perf_counter()
    picture = await pool.run(draw, wanted, inferred.photos[0], inferred.outputs[0])
    call.timings.encode = perf_counter() - began
    return picture


def _segmentation(wanted: Wanted, photo: AnyPhoto, outputs: Outputs) -> Segmentation:
    result = PhotoMask(wanted, photo, outputs)
    segmentation = Segmentation(width=result.width, height=result.height, classes=result.areas())
    if wanted.options.mask != "none":
        segmentation["mask"] = result.mask()
    if wanted.options.confidence == "png":
        segmentation["confidence"] = result.confidence()
    return segmentation


def _mask(wanted: Wanted, photo: AnyPhoto, outputs: Outputs) -> Picture:
    result = PhotoMask(wanted, photo, outputs)
    shows_mask = wanted.options.mask != "none"
    return Picture(result.mask_png() if shows_mask else result.confidence_png(), "image/png")


def _overlay(choice: PictureChoice, wanted: Wanted, photo: AnyPhoto, outputs: Outputs) -> Picture:
    if not isinstance(photo, Photo):
        raise InvalidRequest("An overlay needs an image file, not a tensor; send an image file.")
    labels, keep_other = PhotoMask(wanted, photo, outputs).wanted_labels, wanted.is_filtered
    drawn = overlay(photo.upright(), labels, wanted.contract.colors, keep_other=keep_other)
    return choice.encode(drawn, photo.format)
