"""The options of a segmentation for models of many classes."""

from pathlib import Path

import pytest

from service.engine.segment_options import SegmentOptions
from service.errors import InvalidRequest
from service.schema.contract import Contract
from service.schema.files import read_contract
from tests.service.repository_fixture import write_segmenter


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    """A contract with as many classes as a mask can hold."""
    labels = [f"class_{index}" for index in range(256)]
    return read_contract(write_segmenter(tmp_path)).model_copy(update={"labels": labels})


def test_a_filter_needs_a_pixel_value_for_the_other_classes(contract: Contract) -> None:
    assert SegmentOptions("rle", classes=["class_9"]).indices(contract) == {9}
    with pytest.raises(InvalidRequest, match="256 classes"):
        SegmentOptions("png", classes=["class_9"]).indices(contract)


def test_an_error_lists_a_limited_number_of_classes(contract: Contract) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SegmentOptions(classes=["cat"]).indices(contract)
    assert str(caught.value).endswith("class_18, class_19 and 236 more.")
