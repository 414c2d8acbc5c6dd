"""The configuration tells what is in force, not what the contract would like."""

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


async def test_settings_are_in_force(start: Start) -> None:
    settings = {"max_batch_size": 2, "max_queue_delay_microseconds": 700}
    async with start(version_policy="all", **settings) as service:
        config = await config_of(service)
        assert config["version_policy"] == {"all": {}}
        assert config["max_batch_size"] == 2
        assert config["dynamic_batching"] == {
            "preferred_batch_size": [2],
            "max_queue_delay_microseconds": 700,
        }


async def test_a_setting_above_the_contracts_batch_is_not_in_force(start: Start) -> None:
    async with start(max_batch_size=99) as service:
        assert (await config_of(service))["max_batch_size"] == 4


async def test_the_policy_of_a_load_is_in_force_until_the_next(
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
