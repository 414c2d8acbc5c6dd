"""Trace a label map as polygons; the only module that imports `shapely`."""

from collections.abc import Container, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import shapely

from service.errors import PayloadTooLarge
from service.images.masks import Labels
from service.schema.predictions import PolygonClass

MAX_CORNERS = 1 << 16
"""Limit on the corners and junctions of a map's borders; tracing that many takes about a second."""
MAX_JUNCTIONS = 1 << 12
"""Limit on the points where borders meet: GEOS forms polygons without releasing the GIL."""
STRIP_PIXELS = 1 << 20

Faces = npt.NDArray[Any]
"""Polygons of GEOS."""
Points = npt.NDArray[np.intp]


def class_polygons(
    labels: Labels,
    names: Sequence[str],
    size: tuple[int, int],
    wanted: Container[int],
    *,
    tolerance: float,
    normalized: bool = False,
) -> list[PolygonClass]:
    """Return the polygons of each wanted class in a photo of `size`, width and height.

    The polygons follow the edges of the map's pixels, so together they cover the photo without
    gaps or overlaps. Then corners of borders are removed whose triangle has less than `tolerance`
    squared pixels of the photo (Visvalingam and Whyatt), on both sides alike: polygons stay valid
    and disjoint. With `normalized`, x and y are from 0 to 1.

    Raises:
        PayloadTooLarge: the map is too fragmented.
    """
    faces = _faces(labels)
    found = _labels_of(faces, labels)
    scale = np.divide(size, labels.shape[::-1])
    faces = shapely.transform(faces, lambda points: points * scale)
    if tolerance:
        faces = shapely.coverage_simplify(faces, tolerance, simplify_boundary=False)
    points, (ring_starts, polygon_starts) = shapely.to_ragged_array(faces)[1:]
    points = (points / size).round(6) if normalized else points.round(2)
    polygons = _parts(_parts(points.tolist(), ring_starts, drop=1), polygon_starts)
    return [
        PolygonClass(
            index=index,
            label=names[index],
            polygons=[polygons[at] for at in np.flatnonzero(found == index).tolist()],
        )
        for index in np.unique(found).tolist()
        if index in wanted
    ]


def _faces(labels: Labels) -> Faces:
    """Return the areas of equal labels, whose pixels touch by an edge, as polygons with holes."""
    lines = shapely.multilinestrings(shapely.linestrings(_lines(labels)))
    borders = shapely.get_parts(shapely.line_merge(lines))
    return shapely.get_parts(shapely.polygonize(borders))  # type: ignore[no-any-return]


def _lines(labels: Labels) -> Points:
    """Return the straight lines between different labels, from corner to corner: [n, 2 ends, 2].

    They end at every point where a border turns or meets another; the map's own frame is a border.
    """
    padded = np.pad(labels.astype(np.int16), 1, constant_values=-1)
    ys, xs = _corner_points(padded)
    above_left, above_right = padded[ys, xs], padded[ys, xs + 1]
    below_left, below_right = padded[ys + 1, xs], padded[ys + 1, xs + 1]
    to_right, to_left = above_right != below_right, above_left != below_left
    down, up = below_left != below_right, above_left != above_right
    directions = to_right.astype(np.uint8) + to_left + down + up
    if np.count_nonzero(directions > 2) > MAX_JUNCTIONS:
        raise _too_fragmented()
    by_row, by_column = np.arange(ys.size), np.lexsort((ys, xs))
    starts, ends = [], []
    for order, goes_on in ((by_row, to_right), (by_column, down)):
        at = np.flatnonzero(goes_on[order])
        starts.append(order[at])
        ends.append(order[at + 1])
    points = np.stack((xs, ys), axis=1)
    return np.stack((points[np.concatenate(starts)], points[np.concatenate(ends)]), axis=1)


def _corner_points(padded: npt.NDArray[np.int16]) -> tuple[Points, Points]:
    """Return y and x, row by row, of the points where a border turns, meets another or ends."""
    found, total = [], 0
    rows = max(1, STRIP_PIXELS // padded.shape[1])
    for top in range(0, padded.shape[0] - 1, rows):
        strip = padded[top : top + rows + 1]
        same_row, same_column = strip[:, 1:] == strip[:, :-1], strip[1:] == strip[:-1]
        is_straight = same_row[:-1] & same_row[1:]
        is_straight |= same_column[:, :-1] & same_column[:, 1:]
        ys, xs = np.nonzero(~is_straight)
        total += ys.size
        if total > MAX_CORNERS:
            raise _too_fragmented()
        found.append((ys + top, xs))
    return np.concatenate([ys for ys, _ in found]), np.concatenate([xs for _, xs in found])


def _too_fragmented() -> PayloadTooLarge:
    return PayloadTooLarge("The mask is too fragmented for polygons; ask for mask=rle or mask=png.")


def _labels_of(faces: Faces, labels: Labels) -> Labels:
    """Return the label of each face: that of the pixel inside its first edge."""
    points, (ring_starts, polygon_starts) = shapely.to_ragged_array(faces)[1:]
    first = ring_starts[polygon_starts[:-1]]
    along = np.sign(points[first + 1] - points[first])
    to_left = along[:, ::-1] * (-1, 1)
    turn = np.where(shapely.is_ccw(shapely.get_exterior_ring(faces)), 1, -1)[:, None]
    x, y = (points[first] + (along + turn * to_left) / 2).astype(np.intp).T
    found: Labels = labels[y, x]
    return found


T = TypeVar("T")


def _parts(items: list[T], bounds: Points, drop: int = 0) -> list[list[T]]:
    """Split a list at these bounds, and drop so many items at the end of each part."""
    return [items[start : stop - drop] for start, stop in pairwise(bounds.tolist())]
