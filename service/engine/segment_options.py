"""The options of a segmentation, and what they mean for one model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.errors import InvalidRequest
from service.schema.contract import Contract
from service.schema.tasks import SCORES

MaskFormat = Literal["png", "grey", "rle", "polygons", "none"]
Edges = Literal["smooth", "nearest"]
Confidence = Literal["none", "mean", "png"]
Coordinates = Literal["pixels", "normalized"]

DEFAULT_TOLERANCE = 1.0
MAX_NAMED = 20
"""Limit on the classes that an error lists."""


@dataclass(frozen=True)
class SegmentOptions:
    """The options of a segmentation.

    Without `edges`, they are smooth if the model returns scores. `classes` are labels; by default,
    all. `tolerance`, in pixels of the photo, and `coordinates` are for polygons only.
    """

    mask: MaskFormat = "png"
    edges: Edges | None = None
    classes: Sequence[str] | None = None
    confidence: Confidence = "none"
    tolerance: float = DEFAULT_TOLERANCE
    coordinates: Coordinates = "pixels"

    def is_smooth(self, contract: Contract) -> bool:
        """Return whether labels are computed from the model's scores."""
        return self.edges != "nearest" and contract.has_scores

    def outputs(self, contract: Contract) -> list[str]:
        """Return the outputs to compute; raises `InvalidRequest` if the model has no scores."""
        if not contract.has_scores and (self.edges == "smooth" or self.confidence != "none"):
            wish = "edges=smooth" if self.edges == "smooth" else f"confidence={self.confidence}"
            raise InvalidRequest(
                f"The model {contract.name} does not return scores, which {wish} needs; export it "
                "again, or remove the parameter."
            )
        needs_scores = self.confidence != "none" or self.is_smooth(contract)
        return [contract.prediction, *([SCORES] if needs_scores else [])]

    def indices(self, contract: Contract) -> frozenset[int]:
        """Return the indices of the classes; raises `InvalidRequest` for an unknown label."""
        labels = contract.labels
        if self.classes is None:
            return frozenset(range(len(labels)))
        for name in self.classes:
            if name not in labels:
                others = len(labels) - MAX_NAMED
                raise InvalidRequest(
                    f"The model {contract.name} has no class {name!r}; its classes are "
                    f"{', '.join(labels[:MAX_NAMED])}{f' and {others} more' * (others > 0)}."
                )
        if len(labels) == 256 and self.mask in ("png", "grey"):
            raise InvalidRequest(
                "The model has 256 classes, so no pixel value is left for the classes that are not "
                "requested; ask for mask=rle, polygons or none, or remove classes."
            )
        return frozenset(map(labels.index, self.classes))
