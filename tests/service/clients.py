"""Requests of clients to an application in this process, and the errors that they get."""

import asyncio

import httpx

from tests.service.conftest import Running
from tests.service.photos import GREEN, encode, solid

PHOTO = encode(solid(GREEN))


def classify(service: Running, **options: object) -> asyncio.Task[httpx.Response]:
    options = {"content": PHOTO, **options}
    return asyncio.create_task(service.http.post("/v1/classify", **options))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def asked_from(service: Running, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(service.app, client=(address, 4711))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def error_of(response: httpx.Response) -> str:
    """The sentence of an error, whose body must hold nothing else."""
    body = response.json()
    assert list(body) == ["error"]
    assert body["error"][0].isupper()
    assert body["error"].endswith((".", "]"))
    return body["error"]
