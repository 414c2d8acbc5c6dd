"""Embedding: from photos to vectors, the visual tokens of a model or their mean."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import numpy.typing as npt

from service.engine.call import Call
from service.errors import InferenceFailed, InvalidRequest
from service.images.attention import normalized
from service.images.photo import EncodedOrPrepared
from service.schema.predictions import EmbedResponse
from service.schema.tasks import TOKENS

Embeddings = npt.NDArray[np.float32]


async def embed(
    call: Call,
    images: Sequence[EncodedOrPrepared],
    *,
    normalize: bool = False,
    tokens: bool = False,
) -> Embeddings:
    """Return the mean of each photo's final tokens, FP32 [photos, channels].

    With `tokens`, return all of them: [photos, tokens, channels]. With `normalize`, each vector is
    scaled to length 1.
    """
    contract = call.instance.contract
    if not contract.has_tokens:
        raise InvalidRequest(
            f"The model {contract.name} has no visual tokens to embed photos with; use a model "
            "exported with the output tokens."
        )
    inferred = await call.infer(images, [TOKENS])
    began = perf_counter()
    vectors = np.stack([each[TOKENS] for each in inferred.outputs]).astype(np.float32, copy=False)
    vectors = vectors if tokens else vectors.mean(axis=1)
    if not np.isfinite(vectors).all():
        raise InferenceFailed("The model returned a token that is not a number.")
    vectors = normalized(vectors) if normalize else vectors
    call.timings.encode = perf_counter() - began
    return vectors


def embed_response(call: Call, embeddings: Embeddings, *, normalize: bool) -> EmbedResponse:
    """Return embeddings as a response; the arrays are serialized as lists."""
    identity = call.instance.identity
    return EmbedResponse(
        model=identity.name,
        version=identity.version,
        dimensions=embeddings.shape[-1],
        normalized=normalize,
        embeddings=embeddings,  # type: ignore[typeddict-item]
    )
