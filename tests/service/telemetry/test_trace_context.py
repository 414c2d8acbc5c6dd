import pytest

from service.telemetry.trace_context import TraceContext, parse_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = {
    "sampled": f"00-{TRACE}-{SPAN}-01",
    "not sampled": f"00-{TRACE}-{SPAN}-00",
    "spaces around": f" 00-{TRACE}-{SPAN}-01 ",
    "a later version": f"cc-{TRACE}-{SPAN}-01",
    "a later version with more fields": f"cc-{TRACE}-{SPAN}-01-what-more",
}
INVALID = {
    "empty": "",
    "not hexadecimal": f"00-{TRACE[:-1]}x-{SPAN}-01",
    "capitals": f"00-{TRACE.upper()}-{SPAN}-01",
    "no trace": f"00-{'0' * 32}-{SPAN}-01",
    "no span": f"00-{TRACE}-{'0' * 16}-01",
    "forbidden version": f"ff-{TRACE}-{SPAN}-01",
    "more in version 00": f"00-{TRACE}-{SPAN}-01-more",
    "more without a dash": f"cc-{TRACE}-{SPAN}-01more",
    "too short": f"00-{TRACE}-{SPAN}",
}


@pytest.mark.parametrize("case", VALID)
def test_a_valid_header_is_parsed(case: str) -> None:
    found = parse_traceparent(VALID[case].encode())
    assert found == TraceContext(TRACE, SPAN, 0 if case == "not sampled" else 1)


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_header_is_ignored(case: str) -> None:
    assert parse_traceparent(INVALID[case].encode()) is None


def test_a_header_is_written_as_it_was_read() -> None:
    header = VALID["sampled"].encode()
    assert parse_traceparent(header).traceparent() == header
