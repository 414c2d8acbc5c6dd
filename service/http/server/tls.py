"""TLS from certificate files that can be renewed while the server runs."""

import ssl
from pathlib import Path

import structlog

from service.errors import InvalidConfiguration
from service.http.server.certificate_expiry import first_expiry
from service.telemetry.events import ServerEvents

_log = structlog.get_logger()


class Tls:
    """A server's TLS context: 1.2 or 1.3, HTTP/1.1 only."""

    def __init__(self, certificate: Path, key: Path, events: ServerEvents) -> None:
        self.files = (certificate, key)
        self._events = events
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._load()

    def reload(self) -> None:
        """Use renewed files for new connections; ignore them if they are invalid."""
        try:
            self._load()
        except InvalidConfiguration as error:
            self._events.file_reloaded("certificate", ok=False)
            _log.error("certificate_not_reloaded", error=str(error))
        else:
            _log.info("certificate_reloaded")

    def _load(self) -> None:
        # Load them into another context first: a failure would leave a certificate without key.
        self._load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        ends_at = self._ends_at()
        self._load_into(self.context)
        self._events.file_reloaded("certificate", ok=True)
        self._events.certificate_loaded(ends_at)

    def _ends_at(self) -> float:
        certificate = self.files[0]
        try:
            return first_expiry(certificate.read_bytes())
        except (OSError, ValueError) as error:
            raise InvalidConfiguration(
                f"The TLS certificate {certificate} has no valid expiry date."
            ) from error

    def _load_into(self, context: ssl.SSLContext) -> None:
        certificate, key = self.files
        try:
            context.load_cert_chain(certificate, key, password=lambda: "")  # never ask a terminal
        except ssl.SSLError as error:
            why = error.reason or "they cannot be read"
            raise InvalidConfiguration(
                f"The TLS certificate {certificate} and the key {key} cannot be used: {why}."
            ) from error
        except OSError as error:
            raise InvalidConfiguration(
                f"The TLS certificate {certificate} or the key {key} cannot be read: "
                f"{error.strerror}."
            ) from error
