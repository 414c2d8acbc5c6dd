"""The images in a body: raw bytes, a form's files, or base64 in JSON."""

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from service.images.base64 import decode_base64
from service.schema.validation import first_problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM = "multipart/form-data"
JSON = "application/json"
URL_ENCODED = "application/x-www-form-urlencoded"
MAX_NAME = 40
_EXTENDED_NAME = b"filename*="


class ImageList(BaseModel):
    """The JSON body."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[list[str], Field(min_length=1)]


def is_raw(content_type: str, body: bytes) -> bool:
    """Return whether a body is one image file; reject one that is none and has a remedy."""
    media_type = _media_type(content_type)
    if media_type in (FORM, JSON):
        return False
    if media_type == URL_ENCODED and b"\0" not in body:
        raise InvalidRequest(
            "The body is text, not an image file. curl -d drops bytes of a file; send it with "
            "--data-binary @photo.jpg."
        )
    if body[:1] == b"{":
        raise UnsupportedMediaType(
            "The body is JSON, not an image file; send it with Content-Type: application/json."
        )
    return True


def images_in_body(content_type: str, body: bytes, max_images: int) -> list[bytes]:
    """Return the image files in a body; any other content type is one image file."""
    match _media_type(content_type):
        case "multipart/form-data":
            images = _images_in_form(content_type, body, max_images)
        case "application/json":
            images = _images_in_json(body, max_images)
        case _:
            images = [body]
    for index, image in enumerate(images):
        if not image:
            raise InvalidRequest(f"Image {index} is empty.")
    return images


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _images_in_json(body: bytes, max_images: int) -> list[bytes]:
    # One comma between images and one in each data URI; more are rejected before parsing.
    if body.count(b",") > 2 * max_images + 16:
        raise PayloadTooLarge.images(max_images)
    try:
        images = ImageList.model_validate_json(body).images
    except ValidationError as error:
        raise InvalidRequest(
            f'The JSON body must be {{"images": ["<base64>", ...]}}: {first_problem(error)}.'
        ) from error
    if len(images) > max_images:
        raise PayloadTooLarge.images(max_images)
    return [decode_base64(index, text) for index, text in enumerate(images)]


def _images_in_form(content_type: str, body: bytes, max_images: int) -> list[bytes]:
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest("The content type of the form has no boundary.")
    form = _Form(max_images)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest("The form is not well-formed multipart/form-data.") from error
    if not form.complete:
        raise InvalidRequest("The form is truncated: its last boundary is missing.")
    if not form.files:
        raise InvalidRequest("The form contains no file.")
    return form.files


class _Form:
    """Collects the files of a form while it is parsed."""

    def __init__(self, max_files: int) -> None:
        self.files: list[bytes] = []
        self.complete = False
        self._max_files = max_files
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._data: list[bytes] = []

    def callbacks(self) -> "MultipartCallbacks":
        """Return the callbacks of the parser."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_to_name,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._check_part,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": lambda: self.files.append(b"".join(self._data)),
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        if len(self.files) >= self._max_files:
            raise PayloadTooLarge.images(self._max_files)
        self._headers, self._data = {}, []

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _check_part(self) -> None:
        """Reject a text field: silently ignoring an option would be misleading."""
        disposition = self._headers.get(b"content-disposition", b"")
        options = parse_options_header(disposition)[1]
        has_name = b"filename" in options or _EXTENDED_NAME in disposition.lower()
        if has_name or b"content-type" in self._headers:
            return
        name = options.get(b"name", b"").decode("utf-8", "replace")
        raise InvalidRequest(
            f"The form's field {name!r} is not a file; pass options in the query string. "
            f"If curl should send a file, the @ is missing: -F '{name[:MAX_NAME]}=@photo.jpg'."
        )

    def _end(self) -> None:
        self.complete = True
