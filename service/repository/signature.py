"""Compares the tensors of a graph with those of its contract."""

from collections.abc import Sequence
from typing import Protocol

from service.errors import InvalidEntry
from service.schema.contract import Contract
from service.schema.vocabulary import MetadataTensor


class HasSignature(Protocol):
    """An open graph."""

    @property
    def inputs(self) -> list[MetadataTensor]:
        """Return the graph's inputs; -1 stands for a dynamic dimension."""

    @property
    def outputs(self) -> list[MetadataTensor]:
        """Return the graph's outputs; -1 stands for a dynamic dimension."""


def check_signature(contract: Contract, graph: HasSignature) -> None:
    """Raise `InvalidEntry` if the graph's tensors differ from the contract's."""
    _check_tensors("input", contract.inputs, graph.inputs)
    _check_tensors("output", contract.outputs, graph.outputs)


def _check_tensors(
    kind: str, stated: Sequence[MetadataTensor], found: Sequence[MetadataTensor]
) -> None:
    by_name = {tensor.name: tensor for tensor in found}
    if sorted(by_name) != sorted(tensor.name for tensor in stated):
        raise InvalidEntry(f"the graph's {kind}s are {', '.join(sorted(by_name))}")
    for tensor in stated:
        actual = by_name[tensor.name]
        if not _match(tensor, actual):
            raise InvalidEntry(
                f"the graph's {kind} {tensor.name} is {actual.datatype} {actual.shape}, "
                f"config.json says {tensor.datatype} {tensor.shape}"
            )


def _match(stated: MetadataTensor, found: MetadataTensor) -> bool:
    """Compare two tensors; a dynamic dimension of the graph matches any size."""
    return (
        stated.datatype == found.datatype
        and len(stated.shape) == len(found.shape)
        and all(
            theirs in (-1, ours) for ours, theirs in zip(stated.shape, found.shape, strict=True)
        )
    )
