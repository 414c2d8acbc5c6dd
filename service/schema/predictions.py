"""Wire types of the predictions of `/v1`, and of error responses.

Predictions are plain dictionaries, which orjson serializes directly; creating a pydantic model for
each class would take longer than writing the JSON.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from service.schema.vocabulary import Task, Wire


class ErrorResponse(Wire):
    """The body of every error response."""

    error: str = Field(description="One sentence that says what happened and what to do.")


class ClassScore(TypedDict):
    """A class and its probability."""

    label: str
    index: int
    score: float


class Classification(TypedDict):
    """The classes of one image, most likely first."""

    classes: list[ClassScore]


class ClassifyResponse(TypedDict):
    """The classes of each image, in the order of the request."""

    model: str
    version: str
    predictions: list[Classification]


class ClassArea(TypedDict):
    """The area of a photo that a class covers."""

    label: str
    index: int
    pixels: int
    fraction: float
    confidence: NotRequired[
        Annotated[float, Field(description="Mean over its pixels, if `confidence` was requested.")]
    ]


class PngMask(TypedDict):
    """An indexed 8-bit PNG whose pixel values are class indices; 255 if not requested."""

    format: NotRequired[Annotated[Literal["png"], Field(json_schema_extra={"default": "png"})]]
    data: Annotated[str, Field(description="The PNG file in base64.")]


class GreyMask(TypedDict):
    """An 8-bit greyscale PNG whose pixel values are class indices; 255 if not requested."""

    format: NotRequired[Annotated[Literal["grey"], Field(json_schema_extra={"default": "grey"})]]
    data: Annotated[str, Field(description="The PNG file in base64.")]


class RleClass(TypedDict):
    """The pixels of one class, as COCO compressed run lengths."""

    index: int
    label: str
    size: Annotated[tuple[int, int], Field(description="Height and width.")]
    counts: str


class RleMask(TypedDict):
    """A mask with one set of run lengths per class."""

    format: NotRequired[Annotated[Literal["rle"], Field(json_schema_extra={"default": "rle"})]]
    classes: list[RleClass]


Rings = list[list[list[float]]]
"""A polygon: its outer ring, then its holes, as points [x, y]; the first is not repeated."""


class PolygonClass(TypedDict):
    """The areas of one class."""

    index: int
    label: str
    polygons: Annotated[
        list[Rings],
        Field(description="Rings of [x, y] for each polygon: the outer ring, then its holes."),
    ]


class PolygonMask(TypedDict):
    """A mask with a list of polygons per class; neighbouring classes share their borders."""

    format: NotRequired[
        Annotated[Literal["polygons"], Field(json_schema_extra={"default": "polygons"})]
    ]
    classes: list[PolygonClass]


class ConfidenceMap(TypedDict):
    """An 8-bit greyscale PNG of the photo's size; 255 is certain."""

    format: Literal["png"]
    data: Annotated[str, Field(description="The PNG file in base64.")]


Mask = Annotated[
    PngMask | GreyMask | RleMask | PolygonMask | None,
    Field(description="Absent if `mask=none` was requested.", discriminator="format"),
]


class Segmentation(TypedDict):
    """The classes of one photo, largest area first, and its mask."""

    width: int
    height: int
    classes: list[ClassArea]
    mask: NotRequired[Mask]
    confidence: NotRequired[
        Annotated[
            ConfidenceMap | None, Field(description="Present if `confidence=png` was requested.")
        ]
    ]


class SegmentResponse(TypedDict):
    """The classes and the mask of each photo, in the order of the request."""

    model: str
    version: str
    predictions: list[Segmentation]


class ExplainedClass(TypedDict):
    """The class whose contributions are given."""

    label: str
    index: int
    score: float
    logit: float
    bias: Annotated[float, Field(description="The contributions sum to `logit` less this.")]


class TokenMap(TypedDict):
    """Where a token looks."""

    index: int
    attention: Annotated[
        str, Field(description="UINT8 in base64, row by row; 255 is the token's `maximum`.")
    ]
    maximum: Annotated[float, Field(description="Largest attention; a token's map sums to 1.")]
    share: Annotated[
        float,
        Field(description="Mean over the grid of its part of all tokens' attention; sums to 1."),
    ]
    entropy: Annotated[float, Field(description="From 0, a single cell, to 1, uniform.")]
    centre: Annotated[
        tuple[float, float],
        Field(description="Mean position of its attention, in pixels of the upright photo."),
    ]
    contribution: NotRequired[
        Annotated[float, Field(description="What it adds to the logit of the explained class.")]
    ]


class TokenModule(TypedDict):
    """The tokens of one VT module or of one pyramid level."""

    name: str
    grid: Annotated[tuple[int, int], Field(description="Rows and columns of each map.")]
    tokens: list[TokenMap]
    similarity_row: Annotated[
        int | None,
        Field(description="Row of its first token in `similarity`; null if it has none."),
    ]


class Explanation(TypedDict):
    """Where the tokens of a model look in one photo."""

    width: int
    height: int
    box: Annotated[
        tuple[float, float, float, float],
        Field(description="Left, top, right, bottom of the part that the grids cover."),
    ]
    classes: NotRequired[Annotated[list[ClassScore], Field(description="Classification only.")]]
    explained: NotRequired[Annotated[ExplainedClass, Field(description="Classification only.")]]
    modules: list[TokenModule]
    similarity: Annotated[
        list[list[float]], Field(description="Cosine similarity of the final tokens.")
    ]


class ExplainResponse(TypedDict):
    """Where the tokens look in each photo, in the order of the request."""

    model: str
    version: str
    task: Task
    predictions: list[Explanation]


Vector = list[float]


class EmbedResponse(TypedDict):
    """A vector for each photo, or with `tokens=true` one for each of its tokens."""

    model: str
    version: str
    dimensions: int
    normalized: bool
    embeddings: list[Vector] | list[list[Vector]]
