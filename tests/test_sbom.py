"""The bill of materials names everything that serves, and nothing that does not."""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_bill_of_materials_is_of_the_serving_environment(tmp_path: Path) -> None:
    output = tmp_path / "sbom.cdx.json"
    tool = ROOT / ".venv" / "dev" / "bin" / "cyclonedx-py"
    python = ROOT / ".venv" / "serve" / "bin" / "python"
    subprocess.run([ROOT / ".ci" / "sbom", tool, python, output], check=True, timeout=300)
    bill = json.loads(output.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "vt-serve"
    names = {component["name"] for component in bill["components"]}
    assert names >= {"fastapi", "httptools", "numpy", "onnxruntime", "pillow", "uvicorn", "uvloop"}
    assert not names & {"torch", "cyclonedx-bom", "pytest", "trustme"}
    for component in bill["components"]:
        assert component["purl"].startswith(f"pkg:pypi/{component['name'].replace('_', '-')}@")
