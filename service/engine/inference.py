"""Runs images through a model: decodes them, runs them, and describes the predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from service.batching.interface import Instance
from service.batching.queue import Urgency
from service.engine.summary import summarize
from service.errors import InvalidRequest
from service.images.decode import ImageLimits
from service.images.photo import EncodedOrPrepared, Photo, Place, PreparedImage
from service.runtime.arrays import Outputs
from service.runtime.image_threads import ImageThreads
from service.schema.contract import Contract
from service.telemetry.events import Prediction
from service.telemetry.timings import QUEUED_FIRST, Timings


@dataclass(frozen=True, slots=True)
class Inferred:
    """Images as sent and as prepared, and the outputs of each."""

    images: Sequence[EncodedOrPrepared]
    photos: Sequence[Photo | PreparedImage]
    outputs: Sequence[Outputs]

    def describe(self, instance: Instance) -> list[Prediction]:
        """Describe the images and their predictions, for the metrics."""
        contract = instance.contract
        temperature = contract.versions[instance.identity.version].temperature
        return summarize(contract, self.photos, self.outputs, temperature)


class ImageInference:
    """Runs images through a model version, for requests and for the shadow version."""

    def __init__(self, pool: ImageThreads, limits: ImageLimits, place: Place | None = None) -> None:
        self.pool = pool
        self._limits = limits
        self._place = place

    async def infer(
        self,
        instance: Instance,
        images: Sequence[EncodedOrPrepared],
        names: Sequence[str],
        urgency: Urgency,
        timings: Timings,
        *,
        stacked: bool = False,
    ) -> Inferred:
        """Return the named outputs of each image, in order.

        With `stacked`, raises `InvalidRequest` before any image is queued if the shapes of the
        outputs would differ. Images are decoded by the thread that runs them, so that they stay in
        the cache of its core, unless the instance wants them decoded before, in the image threads.
        """
        instance.reserve(len(images), urgency.deadline)
        try:
            photos = self._photos(instance.contract, images)
            compared = stacked and len(photos) > 1 and _follow_the_photo(instance.contract, names)
            decode_seconds = 0.0
            if instance.prepare_first or compared:
                began = perf_counter()
                await self.pool.gather([each.prepare for each in photos if not each.prepared])
                decode_seconds = perf_counter() - began
            if compared:
                _check_one_size(photos)
            inference = await instance.infer(photos, names, urgency)
        finally:
            instance.free(len(images))
        timings.decode = decode_seconds + inference.decode_seconds
        if not decode_seconds:
            timings.order = QUEUED_FIRST
        timings.queue = inference.queue_seconds
        timings.compute = inference.compute_seconds
        timings.batch_size = inference.batch_size
        return Inferred(images, photos, inference.outputs)

    def _photos(
        self, contract: Contract, images: Sequence[EncodedOrPrepared]
    ) -> list[Photo | PreparedImage]:
        preprocessing = contract.preprocessing
        return [
            image
            if isinstance(image, PreparedImage)
            else Photo(image, preprocessing, self._limits, index, self._place)
            for index, image in enumerate(images)
        ]


def _follow_the_photo(contract: Contract, names: Sequence[str]) -> bool:
    """Return whether the shape of any of these outputs depends on the photo's shape."""
    return any(-1 in each.shape[1:] for each in contract.outputs if each.name in names)


def _check_one_size(photos: Sequence[Photo | PreparedImage]) -> None:
    first, *others = (photo.prepare().pixels.shape[:2] for photo in photos)
    for index, size in enumerate(others, 1):
        if size != first:
            raise InvalidRequest(
                f"The model takes image 0 as {first[0]}x{first[1]} and image {index} as "
                f"{size[0]}x{size[1]}, so their outputs do not form one tensor; send photos "
                "of one height x width at a time."
            )
