"""Expiry of certificates, from their PEM file: `ssl` reports it for peers' certificates only."""

import re
from base64 import b64decode
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.+?)-----END ", re.DOTALL)
_VERSION = 0xA0
_FORMATS = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}  # UTCTime, GeneralizedTime


def first_expiry(pem: bytes) -> float:
    """Return the earliest expiry of the certificates of a chain, in seconds since 1970.

    Raises `ValueError` if there is none; nothing else is validated.
    """
    try:
        return min(_not_after(b64decode(each)) for each in _PEM.findall(pem))
    except (IndexError, KeyError) as error:
        raise ValueError("the file holds no valid certificate") from error


def _not_after(certificate: bytes) -> float:
    """Read the end of a certificate's validity (RFC 5280, 4.1) from its DER encoding."""
    _, at, _ = _element(certificate, 0)  # the certificate
    _, at, _ = _element(certificate, at)  # its signed part
    tag, _, end = _element(certificate, at)
    fields_before = 3 if tag == _VERSION else 2  # serial number, algorithm, issuer
    at = end
    for _ in range(fields_before):
        _, _, at = _element(certificate, at)
    _, at, _ = _element(certificate, at)  # the validity
    _, _, at = _element(certificate, at)  # its beginning
    tag, start, end = _element(certificate, at)
    text = certificate[start:end].decode("ascii")
    return datetime.strptime(text, _FORMATS[tag]).replace(tzinfo=UTC).timestamp()


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of the element at `at`, and the start and end of its content."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:  # the number of bytes that follow, which hold the length
        count = length & 0x7F
        length = int.from_bytes(der[start : start + count])
        start += count
    return tag, start, start + length
