"""Security headers of every response."""

SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
PAGE = "/docs"
PAGE_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; connect-src 'self'; frame-ancestors 'none'; "
    b"img-src data: https://fastapi.tiangolo.com; "
    b"script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    b"style-src 'unsafe-inline' https://cdn.jsdelivr.net",
)
"""The API documentation page loads its script from here."""
TRANSPORT_SECURITY = (b"strict-transport-security", b"max-age=31536000")

ALWAYS = (*SECURITY_HEADERS, POLICY)


def security_headers(path: str, scheme: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers for a response to a request for `path` over `scheme`."""
    headers = (*SECURITY_HEADERS, PAGE_POLICY) if path == PAGE else ALWAYS
    return (*headers, TRANSPORT_SECURITY) if scheme == "https" else headers
