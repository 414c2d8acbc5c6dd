"""The mask of one photo, in every form."""

import base64
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from service.engine.segment_options import SegmentOptions
from service.images.masks import (
    Labels,
    class_areas,
    grey_png,
    mask_png,
    only_classes,
    scale_labels,
)
from service.images.photo import Photo, PreparedImage
from service.images.polygons import class_polygons
from service.images.run_lengths import run_lengths
from service.images.scores import (
    Scores,
    check_scores,
    confidence_map,
    mean_confidence,
    smooth_labels,
)
from service.runtime.arrays import Outputs
from service.schema.contract import Contract
from service.schema.predictions import (
    ClassArea,
    ConfidenceMap,
    GreyMask,
    Mask,
    PngMask,
    PolygonClass,
    PolygonMask,
    RleMask,
)
from service.schema.tasks import SCORES

SMOOTH_FROM = 2
"""Edges are smoothed in photos of more than this many times the pixels that the model sees.

In smaller ones the steps are hardly a pixel, and both kinds of edges are equally accurate.
"""


@dataclass(frozen=True)
class Wanted:
    """What a request wants of a model."""

    options: SegmentOptions
    contract: Contract
    classes: frozenset[int]
    outputs: list[str]

    @classmethod
    def of(cls, options: SegmentOptions, contract: Contract) -> Self:
        """Apply options to a model; raises `InvalidRequest` if it cannot do what they want."""
        return cls(options, contract, options.indices(contract), options.outputs(contract))

    @property
    def is_filtered(self) -> bool:
        """Whether only some classes are wanted; the labels of the others are `OTHER`."""
        return self.options.classes is not None


class PhotoMask:
    """The labels of one photo, at its own size, in the forms that a request wants."""

    def __init__(self, wanted: Wanted, photo: Photo | PreparedImage, outputs: Outputs) -> None:
        self._wanted = wanted
        self._contract = wanted.contract
        self._options = wanted.options
        self._outputs = outputs
        image = photo.prepare()
        self.width, self.height = image.photo_width, image.photo_height

    @cached_property
    def _scores(self) -> Scores:
        return check_scores(self._outputs[SCORES])

    @cached_property
    def _model_labels(self) -> Labels:
        """Labels at the size at which the model sees the photo."""
        return self._outputs[self._contract.prediction].astype(np.uint8, copy=False)

    @cached_property
    def _is_smooth(self) -> bool:
        is_larger = self.width * self.height > SMOOTH_FROM * self._model_labels.size
        return is_larger and self._options.is_smooth(self._contract)

    @cached_property
    def _labels(self) -> Labels:
        """Labels of all classes at the photo's size."""
        if self._is_smooth:
            return smooth_labels(self._scores, self.width, self.height)
        return scale_labels(self._model_labels, self.width, self.height)

    @cached_property
    def wanted_labels(self) -> Labels:
        """Labels in which the classes that are not wanted have the value `OTHER`."""
        if not self._wanted.is_filtered:
            return self._labels
        return only_classes(self._labels, self._wanted.classes)

    @cached_property
    def _confidence(self) -> Labels:
        return confidence_map(self._scores, self.width, self.height)

    def areas(self) -> list[ClassArea]:
        """Return the area of each wanted class, and its confidence if that is wanted."""
        areas = class_areas(self._labels, self._contract.labels)
        wanted = [area for area in areas if area["index"] in self._wanted.classes]
        if self._options.confidence != "none":
            means = mean_confidence(self._labels, self._confidence, len(self._contract.labels))
            for area in wanted:
                area["confidence"] = means[area["index"]]
        return wanted

    def mask(self) -> Mask:
        """Return the mask in the wanted form; None if none is wanted."""
        match self._options.mask:
            case "png":
                return PngMask(format="png", data=_base64(self.mask_png()))
            case "grey":
                return GreyMask(format="grey", data=_base64(self.mask_png()))
            case "rle":
                names, classes = self._contract.labels, self._wanted.classes
                return RleMask(format="rle", classes=run_lengths(self._labels, names, classes))
            case "polygons":
                return PolygonMask(format="polygons", classes=self._polygons())
            case "none":
                return None

    def confidence(self) -> ConfidenceMap:
        """Return the confidence of each pixel."""
        return ConfidenceMap(format="png", data=_base64(self.confidence_png()))

    def mask_png(self) -> bytes:
        """Return the mask as an indexed or a greyscale PNG."""
        if self._options.mask == "grey":
            return grey_png(self.wanted_labels)
        return mask_png(self.wanted_labels, self._contract.colors)

    def confidence_png(self) -> bytes:
        """Return the confidence of each pixel as a greyscale PNG."""
        return grey_png(self._confidence)

    def _polygons(self) -> list[PolygonClass]:
        """Trace the labels; the model's own ones, if the photo's are only enlarged."""
        return class_polygons(
            self._labels if self._is_smooth else self._model_labels,
            self._contract.labels,
            (self.width, self.height),
            self._wanted.classes,
            tolerance=self._options.tolerance,
            normalized=self._options.coordinates == "normalized",
        )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
