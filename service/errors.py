"""The tree of errors, each with its HTTP status and the outcome it is counted as.

ServiceError                    sent as {"error": "<sentence>"}
|-- InvalidRequest        400
|-- LoadFailed            400   loaded versions are unchanged
|-- Unauthorized          401   no API key, or an unknown one
|-- Forbidden             403   not allowed by the key's scopes, or from the client's address
|-- ModelNotFound         404
|-- BodyTimeout           408   the body did not arrive in time
|-- PayloadTooLarge       413
|-- UnsupportedMediaType  415
|-- QueueFull             429   with a computed Retry-After
|   |-- DeadlineUnreachable     the predicted wait exceeds the request's deadline
|   `-- RateLimited             the key's rate limit is exceeded
|-- ClientDisconnected    499   logged and counted, never sent
|-- InferenceFailed       500   the cause is logged, never sent
|   `-- OutOfMemory             the device does not have enough memory for the batch
|-- MemoryExhausted       503   the server has too little memory for the request
|-- ModelNotReady         503
|-- ServerStopping        503
`-- DeadlineExceeded      504

InvalidConfiguration            at start-up: one sentence on standard error, exit status 2
InvalidEntry                    a model version that cannot be served; the message is the reason
"""

import math
import traceback
from typing import ClassVar, Literal, Self

Outcome = Literal[
    "ok",
    "bad_input",
    "rejected_full",
    "rejected_deadline",
    "timeout",
    "cancelled",
    "unavailable",
    "error",
]


MAX_SENTENCE_LETTERS = 1000


class ServiceError(Exception):
    """A request that fails; the message is a sentence for the client.

    A message that is too long because it quotes the request is cut in the middle.
    """

    status: ClassVar[int] = 500
    outcome: ClassVar[Outcome] = "error"

    def __init__(self, message: str) -> None:
        half = MAX_SENTENCE_LETTERS // 2
        is_long = len(message) > MAX_SENTENCE_LETTERS
        super().__init__(f"{message[:half]} ... {message[-half:]}" if is_long else message)


class InvalidRequest(ServiceError):
    """The request is malformed or contradicts itself."""

    status = 400
    outcome = "bad_input"


class LoadFailed(ServiceError):
    """A version of a model could not be loaded."""

    status = 400
    outcome = "bad_input"


class Unauthorized(ServiceError):
    """The request has no valid API key."""

    status = 401
    outcome = "bad_input"


class Forbidden(ServiceError):
    """The client may not do this."""

    status = 403
    outcome = "bad_input"


class ModelNotFound(ServiceError):
    """No model has this name, version or task."""

    status = 404
    outcome = "bad_input"


class BodyTimeout(ServiceError):
    """The client took too long to send its body."""

    status = 408
    outcome = "bad_input"


class PayloadTooLarge(ServiceError):
    """The body, an image or the number of images exceeds a limit."""

    status = 413
    outcome = "bad_input"

    @classmethod
    def body(cls, max_bytes: int) -> Self:
        """Return the error for a body, compressed or decompressed, that is too large."""
        return cls(f"The body has more than the {max_bytes:,} bytes allowed.")

    @classmethod
    def images(cls, max_images: int) -> Self:
        """Return the error for a request with too many images."""
        return cls(f"The request has more than the {max_images} images allowed.")


class UnsupportedMediaType(ServiceError):
    """The bytes are not in a supported image format."""

    status = 415
    outcome = "bad_input"


class QueueFull(ServiceError):
    """A limit is reached; the client may retry after `retry_after_seconds`, at least 1."""

    status = 429
    outcome: ClassVar[Outcome] = "rejected_full"

    def __init__(self, message: str, wait_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = max(1, math.ceil(wait_seconds))


class DeadlineUnreachable(QueueFull):
    """The predicted wait exceeds the request's deadline."""

    outcome = "rejected_deadline"


class RateLimited(QueueFull):
    """The rate limit of the API key is exceeded."""


class ClientDisconnected(ServiceError):
    """The client disconnected before the response was ready."""

    status = 499
    outcome = "cancelled"


class InferenceFailed(ServiceError):
    """The model could not be run, or returned something unexpected."""


class OutOfMemory(InferenceFailed):
    """The device does not have enough memory for the batch."""


class MemoryExhausted(ServiceError):
    """The server has too little memory for the request."""

    status = 503


class ModelNotReady(ServiceError):
    """The model exists but is not ready: it is loading, unloaded, or could not be loaded."""

    status = 503
    outcome = "unavailable"

    @classmethod
    def without_session(cls) -> Self:
        """Return the error for a model whose session is lost."""
        return cls("The model's session could not be reopened; try again later.")


class ServerStopping(ServiceError):
    """The server is stopping and accepts no more requests."""

    status = 503
    retry_after_seconds = 1


class DeadlineExceeded(ServiceError):
    """The response was not ready in time."""

    status = 504
    outcome = "timeout"


class InvalidConfiguration(Exception):
    """The service cannot start with these settings."""


class InvalidEntry(Exception):
    """The files of a model are missing, incomplete, altered or contradictory."""


def clear_frames(error: BaseException | None) -> None:
    """Clear the frames of an error and of its causes; the error itself stays intact.

    A frame may refer to the error that its traceback belongs to. Such a cycle would keep photos and
    sessions in memory until the garbage collector runs.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


def root_cause(error: BaseException) -> BaseException | None:
    """Return the first error of a chain, which is not for clients; None if there is no other."""
    cause = error.__cause__
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
    return None if isinstance(cause, ServiceError) else cause
