"""A graph must have the tensors that its contract states."""

from dataclasses import dataclass

import pytest

from service.errors import InvalidEntry
from service.repository.signature import check_signature
from service.schema.contract import Contract
from service.schema.files import read_contract
from service.schema.vocabulary import Datatype, MetadataTensor
from tests.service.repository_fixture import write_segmenter


@dataclass
class Graph:
    inputs: list[MetadataTensor]
    outputs: list[MetadataTensor]


@pytest.fixture
def contract(tmp_path) -> Contract:
    """Its input is images UINT8 [-1, -1, -1, 3], its output labels UINT8 [-1, -1, -1]."""
    return read_contract(write_segmenter(tmp_path))


def tensor(name: str, shape: list[int], datatype: Datatype = Datatype.UINT8) -> MetadataTensor:
    return MetadataTensor(name=name, datatype=datatype, shape=shape)


IMAGES, LABELS = tensor("images", [-1, -1, -1, 3]), tensor("labels", [-1, -1, -1])


def test_the_tensors_of_the_contract_pass(contract: Contract) -> None:
    check_signature(contract, Graph([IMAGES], [LABELS]))


def test_a_dimension_that_the_graph_leaves_open_passes(contract: Contract) -> None:
    check_signature(contract, Graph([tensor("images", [-1, -1, -1, -1])], [LABELS]))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (tensor("masks", [-1, -1, -1]), "the graph's outputs are masks"),
        (tensor("labels", [-1, 64, -1]), "labels is UINT8 [-1, 64, -1], config.json says UINT8"),
        (tensor("labels", [-1, -1]), "labels is UINT8 [-1, -1], config.json says UINT8"),
        (tensor("labels", [-1, -1, -1], Datatype.INT64), "labels is INT64"),
    ],
    ids=["name", "size", "rank", "datatype"],
)
def test_a_difference_is_refused(contract: Contract, output: MetadataTensor, reason: str) -> None:
    with pytest.raises(InvalidEntry) as caught:
        check_signature(contract, Graph([IMAGES], [output]))
    assert reason in str(caught.value)
