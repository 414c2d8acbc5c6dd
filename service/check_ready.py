"""Checks whether the local server is ready: `python -m service.check_ready`.

Meant for a container's health check: it needs no curl, loads no model and writes no file. It
reads the same `VT_*` variables as the server.
"""

import http.client
import ssl
import sys

from service.errors import InvalidConfiguration
from service.settings import Settings, read_settings

TIMEOUT_SECONDS = 2.0
_OWN_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def main() -> int:
    """Return 0 if the server is ready; otherwise print the reason to standard error, return 1."""
    try:
        reason = _why_not_ready(read_settings({}))
    except (OSError, http.client.HTTPException, InvalidConfiguration) as error:
        reason = str(error) or type(error).__name__
    if reason is None:
        return 0
    print(f"not ready: {reason}", file=sys.stderr)  # noqa: T201
    return 1


def _why_not_ready(settings: Settings) -> str | None:
    connection = _connection(settings)
    try:
        connection.request("GET", "/v2/health/ready")
        answer = connection.getresponse()
        return None if answer.status == http.HTTPStatus.OK else answer.read().decode()
    finally:
        connection.close()


def _connection(settings: Settings) -> http.client.HTTPConnection:
    host = _OWN_ADDRESSES.get(settings.host, settings.host)
    if settings.tls_certificate is None:
        return http.client.HTTPConnection(host, settings.port, timeout=TIMEOUT_SECONDS)
    own = ssl.create_default_context()
    own.check_hostname, own.verify_mode = False, ssl.CERT_NONE  # nothing secret is sent
    return http.client.HTTPSConnection(host, settings.port, timeout=TIMEOUT_SECONDS, context=own)


if __name__ == "__main__":
    sys.exit(main())
