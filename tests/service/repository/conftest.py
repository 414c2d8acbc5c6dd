from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.service.repository.models import Models, opened
from tests.service.repository_fixture import write_versions


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[Models]:
    write_versions(tmp_path, "1")
    models = await opened(tmp_path)
    yield models
    models.loader.gate.set()
    await models.repository.close()
