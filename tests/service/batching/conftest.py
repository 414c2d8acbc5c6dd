import pytest

from service.batching.batcher import DynamicBatcher
from service.batching.plan import ExecutionPlan
from service.runtime.device import Device
from service.schema.model_status import Width
from tests.service.batching.batches import GatedRunner, Recorder, new_batcher, width


@pytest.fixture
def execute() -> GatedRunner:
    return GatedRunner()


@pytest.fixture
def events() -> Recorder:
    return Recorder()


@pytest.fixture
def batcher(execute, events):
    """Make a batcher; by default one slot and batches of four."""

    def make(
        *widths: Width,
        slots: int = 1,
        outage_changed=lambda _: None,
        is_on_cpu: bool = False,
        **plan,
    ) -> DynamicBatcher:
        plan = ExecutionPlan(widths or (width(1, 4),), **plan)
        options = {"outage_changed": outage_changed, "is_on_cpu": is_on_cpu}
        return new_batcher(execute, plan, Device(slots), events, **options)

    return make
