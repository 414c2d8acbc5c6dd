"""What can go wrong on the way from a checkpoint to a repository entry.

ExportError                     exit status 2, one sentence on standard error, nothing written
|-- InvalidModel                no such model, or dimensions that cannot be built
|-- InvalidCheckpoint           unreadable, hostile, or not this model's parameters
|-- InvalidData                 a data set, label file or image that cannot be used
|-- InvalidEntry                a repository entry that is missing or broken
`-- VerificationFailed          exit status 1: the graph does not equal the checkpoint
"""


class ExportError(Exception):
    """The command cannot do its work; the message says what happened and what to do."""

    exit_status = 2


class InvalidModel(ExportError):
    """No such model, or dimensions that cannot be built."""


class InvalidCheckpoint(ExportError):
    """The file is unreadable or hostile, or holds other parameters than the model's."""


class InvalidData(ExportError):
    """A data set, a label file or an image cannot be used."""


class InvalidEntry(ExportError):
    """A repository entry is missing, incomplete or contradicts itself."""


class VerificationFailed(ExportError):
    """The graph's outputs differ from the checkpoint's beyond the tolerance."""

    exit_status = 1
