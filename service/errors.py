"""What can go wrong, as one tree; each leaf knows its HTTP status and how it is counted.

ServiceError                    answered as {"error": "<sentence>"}
|-- InvalidRequest        400
|-- LoadFailed            400   what served before still does
|-- Unauthorized          401   no key, or one that nobody has
|-- Forbidden             403   the key's scopes, or the place it is asked from, do not allow it
|-- ModelNotFound         404
|-- BodyTimeout           408   the body did not arrive in time
|-- PayloadTooLarge       413
|-- UnsupportedMediaType  415
|-- QueueFull             429   with a computed Retry-After
|   |-- DeadlineUnreachable     the wait would outlast the request's deadline
|   `-- RateLimited             the key's requests come faster than its limit
|-- ClientDisconnected    499   logged and counted; nobody is there to read it
|-- InferenceFailed       500   the cause is logged, never sent
|   `-- OutOfMemory             the device has no room for the batch
|-- ModelNotReady         503
|-- ServerStopping        503
`-- DeadlineExceeded      504

InvalidConfiguration            at start-up: one sentence on standard error, exit status 2
InvalidEntry                    a repository entry that cannot be served; the sentence is its reason
"""

import math
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
    """A request that gets no prediction; the message is a sentence for the client.

    The middle of one that is too long, because it repeats something that was sent, is left out.
    """

    status: ClassVar[int] = 500
    outcome: ClassVar[Outcome] = "error"

    def __init__(self, message: str) -> None:
        half = MAX_SENTENCE_LETTERS // 2
        is_long = len(message) > MAX_SENTENCE_LETTERS
        super().__init__(f"{message[:half]} ... {message[-half:]}" if is_long else message)


class InvalidRequest(ServiceError):
    """The client sent something that cannot be understood."""

    status = 400
    outcome = "bad_input"


class LoadFailed(ServiceError):
    """A model was to be loaded or changed, and a version of it cannot be served."""

    status = 400
    outcome = "bad_input"


class Unauthorized(ServiceError):
    """The request has no API key, or one that is not valid."""

    status = 401
    outcome = "bad_input"


class Forbidden(ServiceError):
    """Whoever asks may not do this."""

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
    """The body, an image or the number of images is over a limit."""

    status = 413
    outcome = "bad_input"

    @classmethod
    def body(cls, max_bytes: int) -> Self:
        """Refuse a body, or what it would become."""
        return cls(f"The body has more than the {max_bytes:,} bytes allowed.")

    @classmethod
    def images(cls, max_images: int) -> Self:
        """Refuse a request of so many images."""
        return cls(f"The request has more than the {max_images} images allowed.")


class UnsupportedMediaType(ServiceError):
    """The bytes are of no image format on the list."""

    status = 415
    outcome = "bad_input"


class QueueFull(ServiceError):
    """A bound is reached; the client may try again after `retry_after_seconds`, at least 1."""

    status = 429
    outcome: ClassVar[Outcome] = "rejected_full"

    def __init__(self, message: str, wait_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = max(1, math.ceil(wait_seconds))


class DeadlineUnreachable(QueueFull):
    """What waits already takes longer than the request's deadline allows."""

    outcome = "rejected_deadline"


class RateLimited(QueueFull):
    """The requests of an API key come faster than its limit."""


class ClientDisconnected(ServiceError):
    """The client left before its answer was ready."""

    status = 499
    outcome = "cancelled"


class InferenceFailed(ServiceError):
    """The model could not be run, or returned something that it should not."""


class OutOfMemory(InferenceFailed):
    """The device has no memory for the batch."""


class ModelNotReady(ServiceError):
    """The model exists but does not serve: it is loading, was refused, or is unloaded."""

    status = 503
    outcome = "unavailable"

    @classmethod
    def without_session(cls) -> Self:
        """Refuse what a model would run on a session that is lost."""
        return cls("The model's session could not be reopened; try again later.")


class ServerStopping(ServiceError):
    """The server takes no more requests; another one, or its successor, soon does."""

    status = 503
    retry_after_seconds = 1


class DeadlineExceeded(ServiceError):
    """The answer was not ready in time."""

    status = 504
    outcome = "timeout"


class InvalidConfiguration(Exception):
    """The service cannot start with these settings."""


class InvalidEntry(Exception):
    """A repository entry is missing, incomplete, altered, or contradicts itself."""
