from base64 import b64encode
from datetime import UTC, datetime

import pytest
import trustme

from service.http.server.certificate_expiry import first_expiry

AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)
BEGINS = datetime(1999, 12, 31, tzinfo=UTC)


def issue(ends: datetime, *names: str) -> bytes:
    """One certificate, in PEM."""
    issued = AUTHORITY.issue_cert(
        *(names or ("localhost",)),
        not_before=BEGINS,
        not_after=ends,
        key_type=trustme.KeyType.ECDSA,
    )
    return issued.cert_chain_pems[0].bytes()


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param(datetime(2000, 1, 1, tzinfo=UTC), id="long ago"),
        pytest.param(datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), id="two digits of a year"),
        pytest.param(datetime(2050, 1, 1, tzinfo=UTC), id="four digits of a year"),
        pytest.param(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), id="never"),
    ],
)
def test_the_expiry_of_a_certificate_is_read(ends: datetime) -> None:
    assert first_expiry(issue(ends)) == ends.timestamp()


def test_a_certificate_of_any_length_is_read() -> None:
    ends = datetime(2040, 1, 1, tzinfo=UTC)
    long = issue(ends, *(f"host-{number}.example" for number in range(4000)))
    assert len(long) > 1 << 16
    assert first_expiry(long) == ends.timestamp()


def test_the_expiry_of_a_chain_is_the_earliest_of_its_certificates() -> None:
    first, second = datetime(2030, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
    for chain in ((first, second), (second, first)):
        pem = b"a comment\n" + b"".join(issue(each) for each in chain)
        assert first_expiry(pem) == first.timestamp()


def test_the_expiry_of_a_version_1_certificate_is_read() -> None:
    element = {
        "serial number": b"\x02\x01\x05",
        "algorithm": b"\x30\x00",
        "issuer": b"\x30\x00",
        "validity": b"\x30\x1e" + 2 * b"\x17\x0d400102030405Z",
    }
    signed = b"".join(element.values())
    certificate = b"\x30%c\x30%c" % (len(signed) + 2, len(signed)) + signed
    pem = b"-----BEGIN CERTIFICATE-----\n%b\n-----END CERTIFICATE-----" % b64encode(certificate)
    assert first_expiry(pem) == datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("content", [b"", b"0", b"0\x82", b"0\x000\x00", bytes(40), b"\x30" * 40])
def test_bytes_that_are_not_a_certificate_have_no_expiry(content: bytes) -> None:
    pem = b"-----BEGIN CERTIFICATE-----" + b64encode(content) + b"-----END CERTIFICATE-----"
    for each in (pem, content):
        with pytest.raises(ValueError, match=r"."):
            first_expiry(each)
