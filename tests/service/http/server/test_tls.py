"""TLS in the real process, with certificates that the tests make."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from service import check_ready
from service.errors import InvalidConfiguration
from service.http.server.tls import Tls
from service.telemetry.metrics import PrometheusMetrics
from tests.service.process import Process
from tests.service.repository_fixture import write_classifier
from tests.service.telemetry.samples import value

BEGINS = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


def write_certificate(
    folder: Path, authority: trustme.CA, ends: datetime | None = None
) -> tuple[Path, Path]:
    certificate, key = folder / "tls.crt", folder / "tls.key"
    issued = authority.issue_cert(
        "127.0.0.1", key_type=trustme.KeyType.ECDSA, not_before=BEGINS, not_after=ends
    )
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return certificate, key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def server(folder: Path, authority: trustme.CA) -> Iterator[Process]:
    certificate, key = write_certificate(folder, authority)
    write_classifier(folder / "weights")
    process = Process(
        *("--model-repository", str(folder / "weights")),
        VT_TLS_CERTIFICATE=str(certificate),
        VT_TLS_KEY=str(key),
        VT_HEADER_TIMEOUT_SECONDS="0.5",
    )
    process.wait_for("model_ready")
    yield process
    process.kill()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def certificate_of(server: Process, trusting: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain,
        trusting.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        return secured.getpeercert(binary_form=True)


def test_responses_over_tls_enable_strict_transport_security(
    server: Process, trusting: ssl.SSLContext
) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=20, context=trusting)
    connection.request("GET", "/v2/health/ready")
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())) == (200, {"ready": True})
    assert response.headers["strict-transport-security"] == "max-age=31536000"
    assert connection.sock.version() == "TLSv1.3"
    connection.close()


def test_plain_http_on_the_tls_port_gets_no_response(server: Process) -> None:
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        server.ask("GET", "/v2/health/live")


def test_a_connection_without_a_handshake_is_closed(server: Process) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as silent:
        assert silent.recv(1) == b""


def test_a_renewed_certificate_serves_without_a_restart(
    server: Process, folder: Path, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    before = certificate_of(server, trusting)
    write_certificate(folder, authority)
    server.wait_for("certificate_reloaded")
    assert certificate_of(server, trusting) != before


def test_tls_1_2_is_the_oldest_version_accepted(tmp_path: Path, authority: trustme.CA) -> None:
    context = Tls(*write_certificate(tmp_path, authority), PrometheusMetrics().server).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_half_a_renewal_changes_nothing(tmp_path: Path, authority: trustme.CA) -> None:
    tls = Tls(*write_certificate(tmp_path, authority), PrometheusMetrics().server)
    other = tmp_path / "other"
    other.mkdir()
    write_certificate(other, authority)[0].replace(tmp_path / "tls.crt")
    with capture_logs() as logs:
        tls.reload()
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("certificate_not_reloaded", "error")
    ]
    (other / "tls.key").replace(tmp_path / "tls.key")
    with capture_logs() as logs:
        tls.reload()
    assert [line["event"] for line in logs] == ["certificate_reloaded"]


def test_metrics_show_the_last_reload_and_the_expiry_of_the_certificate(
    tmp_path: Path, authority: trustme.CA
) -> None:
    metrics = PrometheusMetrics()
    ends = [datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC) for year in (2040, 2049)]

    def watched() -> tuple[float | None, float | None]:
        names = ("vt_last_reload_successful", "vt_tls_certificate_expiry_timestamp_seconds")
        last_reload, expiry = (value(metrics, name, file="certificate") for name in names)
        return last_reload, expiry

    assert watched() == (None, None)
    tls = Tls(*write_certificate(tmp_path, authority, ends[0]), metrics.server)
    assert watched() == (1, ends[0].timestamp())
    (tmp_path / "tls.crt").unlink()
    tls.reload()
    assert watched() == (0, ends[0].timestamp())
    write_certificate(tmp_path, authority, ends[1])
    tls.reload()
    assert watched() == (1, ends[1].timestamp())


def test_a_certificate_without_an_expiry_date_is_reported_in_one_sentence(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_certificate(tmp_path, authority)
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda *_args, **_kwargs: None)
    files[0].write_text("none")
    with pytest.raises(InvalidConfiguration, match="has no valid expiry date"):
        Tls(*files, PrometheusMetrics().server)


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key"])
def test_a_missing_file_is_reported_in_one_sentence(
    tmp_path: Path, authority: trustme.CA, missing: str
) -> None:
    files = write_certificate(tmp_path, authority)
    (tmp_path / missing).unlink()
    with pytest.raises(InvalidConfiguration, match="cannot be read: No such file"):
        Tls(*files, PrometheusMetrics().server)


def test_an_invalid_private_key_is_reported_in_one_sentence(
    tmp_path: Path, authority: trustme.CA
) -> None:
    files = write_certificate(tmp_path, authority)
    files[1].write_text("none")
    with pytest.raises(InvalidConfiguration, match="cannot be used"):
        Tls(*files, PrometheusMetrics().server)


def test_the_health_check_uses_tls_if_the_service_does(
    server: Process, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VT_PORT", str(server.port))
    monkeypatch.setenv("VT_TLS_CERTIFICATE", str(folder / "tls.crt"))
    monkeypatch.setenv("VT_TLS_KEY", str(folder / "tls.key"))
    assert check_ready.main() == 0
