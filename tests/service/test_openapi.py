"""Responses match the OpenAPI description, for valid and invalid data generated from it."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.process import Process, running
from tests.service.repository_fixture import write_both

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with running(write_both(tmp_path_factory.mktemp("weights"))) as process:
        yield process


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_as_described(server: Process, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    operations = [each.ok() for each in schema.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:
        if mode is GenerationMode.POSITIVE or can_be_wrong(operation):
            try_out(operation, mode)
    assert server.process.poll() is None


def can_be_wrong(operation: schemathesis.schemas.APIOperation) -> bool:
    """Whether it takes more than a path, which may be any text."""
    raw = operation.definition.raw
    return "requestBody" in raw or any(each["in"] != "path" for each in raw.get("parameters", []))


def try_out(operation: schemathesis.schemas.APIOperation, mode: GenerationMode) -> None:
    """Send an operation what its description gives rise to, or what contradicts it."""
    described = operation.definition.raw["responses"]

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def send(case: schemathesis.Case) -> None:
        response = case.call(timeout=20)
        too_late = response.status_code == 504 and "X-Request-Timeout-Ms" in (case.headers or {})
        assert response.status_code < 500 or too_late, (operation.label, response.text)
        assert str(response.status_code) in described, (operation.label, response.text)
        case.validate_response(response, checks=CHECKS)

    send()
