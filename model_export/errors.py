"""Errors on the way from a checkpoint to a repository entry.

ExportError                     exit status 2: one sentence on standard error, nothing written
|-- InvalidModel                unknown model, or dimensions that cannot be built
|-- InvalidCheckpoint           unreadable, hostile, or parameters of another model
|-- InvalidData                 an unusable data set, label file or image
|-- InvalidEntry                a missing or broken repository entry
`-- VerificationFailed          exit status 1: the graph differs from the checkpoint
"""


class ExportError(Exception):
    """The command failed; the message says what happened and what to do."""

    exit_status = 2


class InvalidModel(ExportError):
    """The model is unknown, or its dimensions cannot be built."""


class InvalidCheckpoint(ExportError):
    """The file is unreadable or hostile, or its parameters are not the model's."""


class InvalidData(ExportError):
    """A data set, a label file or an image is unusable."""


class InvalidEntry(ExportError):
    """A repository entry is missing, incomplete or inconsistent."""


class VerificationFailed(ExportError):
    """The graph's outputs differ from the checkpoint's by more than the tolerance."""

    exit_status = 1
