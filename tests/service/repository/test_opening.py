"""Which graph is opened for the provider that ONNX Runtime offers."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from service.errors import InvalidEntry
from service.repository.opening import check_provider, open_chosen
from service.repository.precision import PrecisionChoice

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass(frozen=True)
class FakeGraph:
    """A graph that was opened, on the provider that it got."""

    precision: str
    active_provider: str


class FakeRuntime:
    """Opens any precision, always on the same provider."""

    def __init__(self, active_provider: str) -> None:
        self.active_provider = active_provider
        self.opened: list[str] = []

    def open(self, precision: str) -> FakeGraph:
        self.opened.append(precision)
        return FakeGraph(precision, self.active_provider)


def best(provider: str) -> PrecisionChoice:
    return PrecisionChoice({CPU: "int8", CUDA: "fp16"}[provider], f"on {provider}")


def always_int8(provider: str) -> PrecisionChoice:
    return PrecisionChoice("int8", f"on {provider}")


@pytest.mark.parametrize(
    ("choose", "active", "opened"),
    [
        (best, CUDA, ["fp16"]),
        (best, CPU, ["fp16", "int8"]),
        (always_int8, CPU, ["int8"]),
    ],
    ids=["as expected", "another provider", "another provider, the same precision"],
)
def test_the_precision_is_chosen_for_the_provider_that_the_graph_got(
    choose: Callable[[str], PrecisionChoice], active: str, opened: list[str]
) -> None:
    runtime = FakeRuntime(active)
    choice, graph = open_chosen(CUDA, choose, runtime.open)
    assert runtime.opened == opened
    assert choice == choose(active)
    assert graph.precision == choice.precision


def test_a_session_on_another_provider_than_required_is_refused() -> None:
    graph = FakeGraph("fp32", CPU)
    check_provider(graph, None)
    check_provider(graph, "cpu")
    with pytest.raises(InvalidEntry, match=f"would run on {CPU}, but VT_REQUIRE_PROVIDER is cuda"):
        check_provider(graph, "cuda")
