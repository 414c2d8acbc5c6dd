import re

from tests.service.conftest import Running, Start


async def test_the_page_loads_only_files_of_the_service_by_relative_addresses(
    service: Running,
) -> None:
    page = (await service.http.get("/docs")).text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(addresses) == 4
    for address in addresses:
        assert re.fullmatch(r"docs/[\w.-]+", address)
        assert (await service.http.get(f"/{address}")).status_code == 200
    script = (await service.http.get("/docs/docs.js")).text
    assert 'url: "openapi.json"' in script
    assert "SwaggerUIBundle" in (await service.http.get("/docs/swagger-ui-bundle.js")).text


async def test_the_page_needs_the_key_that_the_description_needs(
    start: Start, keys_file: object
) -> None:
    async with start(api_keys_file=keys_file, require_key_for_metadata=True) as service:
        for path in ("/docs", "/docs/docs.js", "/openapi.json"):
            assert (await service.http.get(path)).status_code == 401
