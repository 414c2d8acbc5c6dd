"""The configuration has the values in force, not those of the contract."""

import json
from pathlib import Path

from tests.service.conftest import Running, Start
from tests.service.repository_fixture import write_versions


async def config_of(service: Running, version: str | None = None) -> dict:
    path = "colour" if version is None else f"colour/versions/{version}"
    response = await service.http.get(f"/v2/models/{path}/config")
    assert response.status_code == 200, response.text
    return response.json()


async def test_without_settings_the_contract_is_in_force(start: Start, repository: Path) -> None:
    policy = {"latest": {"num_versions": 2}}
    write_versions(repository, "1", "2", "3", version_policy=policy)
    async with start() as service:
        config = await config_of(service)
        assert config["version_policy"] == policy
        assert config["max_batch_size"] == 4
        assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 0
        assert await config_of(service, "2") == config


async def test_settings_replace_the_values_of_the_contract(start: Start) -> None:
    settings = {"max_batch_size": 2, "max_queue_delay_microseconds": 700}
    async with start(version_policy="all", **settings) as service:
        config = await config_of(service)
        assert config["version_policy"] == {"all": {}}
        assert config["max_batch_size"] == 2
        assert config["dynamic_batching"] == {
            "preferred_batch_size": [2],
            "max_queue_delay_microseconds": 700,
        }


async def test_the_batch_size_is_at_most_the_contracts(start: Start) -> None:
    async with start(max_batch_size=99) as service:
        assert (await config_of(service))["max_batch_size"] == 4


async def test_the_version_policy_of_a_load_is_in_force_until_the_next_load(
    service: Running, repository: Path
) -> None:
    write_versions(repository, "1", "2")
    wanted = {"version_policy": {"specific": {"versions": [1]}}}
    for body, policy in (
        ({"parameters": {"config": json.dumps(wanted)}}, wanted["version_policy"]),
        ({}, {"latest": {"num_versions": 1}}),
    ):
        url = "/v2/repository/models/colour/load"
        assert (await service.http.post(url, json=body)).status_code == 200
        assert (await config_of(service))["version_policy"] == policy
