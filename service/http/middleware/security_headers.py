"""Security headers of every response."""

Headers = tuple[tuple[bytes, bytes], ...]

NO_STORE = (b"cache-control", b"no-store")
REVALIDATE = (b"cache-control", b"no-cache")
"""For static files: a browser keeps them, and asks by ETag whether they have changed."""
COMMON = (
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_CLOSED = b"default-src 'none'; frame-ancestors 'none'"
_OWN_FILES = b"; base-uri 'none'; form-action 'none'; connect-src 'self'; script-src 'self'"
_NAME = b"content-security-policy"

ALWAYS: Headers = (NO_STORE, *COMMON, (_NAME, _CLOSED))
PLAYGROUND: Headers = (
    REVALIDATE,
    *COMMON,
    (
        _NAME,
        _CLOSED + _OWN_FILES + b"; style-src 'self'; img-src 'self' blob:"
        b"; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
)
DOCS: Headers = (
    REVALIDATE,
    *COMMON,
    (_NAME, _CLOSED + _OWN_FILES + b"; style-src 'self' 'unsafe-inline'; img-src 'self' data:"),
)
"""Swagger UI sets inline styles and has images in its style sheet."""
TRANSPORT_SECURITY = (b"strict-transport-security", b"max-age=31536000")


def security_headers(path: str, scheme: str) -> Headers:
    """Return the headers for a response to a request for `path` over `scheme`."""
    headers = ALWAYS
    if path == "/" or path.startswith("/playground/"):
        headers = PLAYGROUND
    elif path == "/docs" or path.startswith("/docs/"):
        headers = DOCS
    return (*headers, TRANSPORT_SECURITY) if scheme == "https" else headers
