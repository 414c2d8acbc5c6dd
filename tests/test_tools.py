"""A missing tool skips its tests, or fails them if tools are required."""

import pytest

from tests.tools import needs


@pytest.mark.parametrize(("value", "skips"), [("", True), ("0", True), ("1", False)])
def test_a_missing_tool_skips_unless_tools_are_required(
    value: str, skips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUIRE_TOOLS", value)
    assert needs("no-such-tool").args == (skips,)
    assert needs("python3").args == (False,)
