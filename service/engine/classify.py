"""Classification: from photos to classes."""

from collections.abc import Sequence
from time import perf_counter

from service.engine.call import Call
from service.images.classes import top_classes
from service.images.photo import EncodedOrPrepared
from service.schema.predictions import Classification, ClassifyResponse


async def classify(
    call: Call, images: Sequence[EncodedOrPrepared], top_k: int = 5
) -> ClassifyResponse:
    """Return the `top_k` most likely classes of each image, or all if there are fewer."""
    inferred = await call.infer(images)
    identity, contract = call.instance.identity, call.instance.contract
    temperature = contract.versions[identity.version].temperature
    began = perf_counter()
    predictions: list[Classification] = [
        {"classes": top_classes(each["logits"], contract.labels, top_k, temperature)}
        for each in inferred.outputs
    ]
    call.timings.encode = perf_counter() - began
    return {"model": identity.name, "version": identity.version, "predictions": predictions}
