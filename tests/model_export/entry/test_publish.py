"""Recording new figures keeps certificate and contract consistent."""

import hashlib
import json

from model_export.entry.publish import record
from model_export.entry.version import open_version


def test_recording_replaces_the_certificate_and_its_hash_together(weights):
    version = open_version(weights, "colors")
    before = json.loads((weights / "colors/config.json").read_text())
    record(version, {**version.certificate(), "note": "measured again"})
    content = (version.folder / "certificate.json").read_bytes()
    after = json.loads((weights / "colors/config.json").read_text())
    assert after["versions"]["1"]["certificate_sha256"] == hashlib.sha256(content).hexdigest()
    assert after["versions"]["1"]["provenance"] == before["versions"]["1"]["provenance"]
    again = open_version(weights, "colors")
    assert again.certificate()["note"] == "measured again"
