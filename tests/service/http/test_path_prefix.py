"""Links in responses carry the prefix that a proxy has removed; routing ignores it."""

from pathlib import Path

import httpx
import pytest

from service.schema.path_prefix import parse_path_prefix
from tests.service.clients import asked_from
from tests.service.conftest import Running, Start
from tests.service.nginx import nginx
from tests.service.photos import GREEN, encode, solid
from tests.service.process import running
from tests.tools import needs

PHOTO = encode(solid(GREEN))
HEADER = "X-Forwarded-Prefix"


async def prefixes(service: Running, address: str, **headers: str) -> set[str]:
    """The prefixes of the list of endpoints and of the description."""
    async with asked_from(service, address) as http:
        listed = (await http.get("/", headers=headers)).json()
        description = (await http.get("/openapi.json", headers=headers)).json()
    (prefix,) = {name.split(" ")[1].removesuffix("/docs") for name in listed if "/docs" in name}
    return {prefix, *(server["url"] for server in description.get("servers", [{"url": ""}]))}


@pytest.mark.parametrize(
    ("settings", "address", "header", "prefix"),
    [
        ({}, "127.0.0.1", None, ""),
        ({}, "127.0.0.1", "/vt", "/vt"),
        ({}, "::1", "/a/b-2/", "/a/b-2"),
        ({}, "192.0.2.7", "/vt", ""),
        ({"trusted_proxies": "192.0.2.0/24"}, "192.0.2.7", "/vt", "/vt"),
        ({"trusted_proxies": "192.0.2.0/24"}, "127.0.0.1", "/vt", ""),
        ({"root_path": "/here"}, "192.0.2.7", "/vt", "/here"),
        ({"root_path": "/here/"}, "127.0.0.1", None, "/here"),
        ({"root_path": "/here"}, "127.0.0.1", "/vt", "/vt"),
        ({}, "127.0.0.1", "//evil.example", ""),
        ({}, "127.0.0.1", "https://evil.example", ""),
        ({}, "127.0.0.1", "/../x", ""),
    ],
)
async def test_links_carry_the_prefix_of_the_settings_or_of_a_trusted_proxy(
    start: Start, settings: dict, address: str, header: str | None, prefix: str
) -> None:
    async with start(**settings) as service:
        headers = {} if header is None else {HEADER: header}
        assert await prefixes(service, address, **headers) == {prefix}


async def test_a_prefix_in_the_path_is_not_removed(start: Start) -> None:
    """Otherwise a client could name the prefix twice to get past a proxy's rules."""
    async with start(root_path="/vt") as service:
        response = await service.http.get("/vt/v1/models", headers={HEADER: "/vt"})
        assert response.status_code == 404


@pytest.mark.parametrize("text", ["vt", "/a//b", "/a b", "/a?b", "/./a", "/a/..", "http://x"])
def test_a_prefix_is_a_plain_path(text: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        parse_path_prefix(text)


LOCATIONS = """
        location /vt/ {{
            proxy_pass http://127.0.0.1:{upstream}/;
            proxy_set_header X-Forwarded-Prefix /vt;
        }}
        location /fixed/ {{ proxy_pass http://127.0.0.1:{upstream}/; }}
"""


@needs("nginx")
def test_behind_nginx_every_link_works(repository: Path, tmp_path: Path) -> None:
    with (
        running(repository, VT_ROOT_PATH="/fixed") as server,
        nginx(tmp_path, LOCATIONS.format(upstream=server.port)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http,
    ):
        for prefix in ("/vt", "/fixed"):
            description = http.get(f"{prefix}/openapi.json").json()
            (base,) = (each["url"] for each in description["servers"])
            answer = http.post(f"{base}/v1/classify", content=PHOTO)
            assert answer.json()["predictions"][0]["classes"][0]["label"] == "green"
            for endpoint in http.get(f"{prefix}/").json():
                method, path = endpoint.split()
                if method == "GET":
                    response = http.get(path.replace("{model}", "colour"))
                    assert response.status_code == 200, path
