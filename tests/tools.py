"""Tools that some tests run and that pip cannot install."""

import os
import shutil

import pytest

PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "java": "default-jre-headless",
    "kubectl": "kubernetes-client",
    "nginx": "nginx-light",
    "prometheus": "prometheus",
    "promtool": "prometheus",
}
"""What Debian calls the package of each."""


def needs(tool: str) -> pytest.MarkDecorator:
    """Skip a test if a tool is not installed; with `REQUIRE_TOOLS=1` let it fail instead."""
    required = os.environ.get("REQUIRE_TOOLS") == "1"
    return pytest.mark.skipif(
        shutil.which(tool) is None and not required,
        reason=f"{tool} is not installed (Debian: {PACKAGES.get(tool, tool)})",
    )
