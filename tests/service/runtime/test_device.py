import asyncio
import threading
from operator import attrgetter

import pytest

from service.runtime.device import Device, Devices, describe_device


def test_taking_slots_that_are_not_free_is_an_error():
    device = Device(2)
    device.take(2)
    with pytest.raises(ValueError, match="1 slots requested, 0 free"):
        device.take(1)


def test_as_many_executions_of_one_slot_may_be_lined_up_as_there_are_slots():
    device = Device(2)
    for _ in range(4):
        assert device.may_line_up
        device.take(1)
    assert (device.free, device.may_line_up) == (-2, False)
    with pytest.raises(ValueError, match="1 slots requested, -2 free"):
        device.take(1)
    device.give_back(1, by=lambda: None)
    assert device.may_line_up
    with pytest.raises(ValueError, match="2 slots requested, -1 free"):
        device.take(2)


def test_the_subscriber_that_gives_slots_back_is_called_last():
    device, asked = Device(1), []

    def first() -> None:
        asked.append("first")

    def second() -> None:
        asked.append("second")

    for dispatch in (first, second):
        device.subscribe(dispatch)
    device.take(1)
    device.give_back(1, by=first)
    assert asked == ["second", "first"]
    device.unsubscribe(second)
    device.unsubscribe(second)
    device.take(1)
    device.give_back(1, by=first)
    assert asked == ["second", "first", "first"]


def test_subscribers_are_not_called_once_nothing_is_free():
    device, asked = Device(1), []

    def greedy() -> None:
        device.take(1)
        asked.append("greedy")

    device.subscribe(greedy)
    device.subscribe(lambda: asked.append("late"))
    device.take(1)
    device.take(1)
    device.give_back(1, by=lambda: None)
    assert asked == ["greedy"]


def test_the_cpu_has_one_slot_per_core_and_the_gpu_one():
    devices = Devices(6)
    assert devices.of("CPUExecutionProvider").slots == 6
    assert devices.of("CUDAExecutionProvider").slots == 1
    assert devices.of("CPUExecutionProvider") is devices.of("CPUExecutionProvider")


@pytest.mark.parametrize("which", ["opener", "_cpu.workers", "_gpu.workers"])
async def test_closing_devices_waits_for_executions_and_openings(which):
    devices, begun, go_on = Devices(1), threading.Event(), threading.Event()
    attrgetter(which)(devices).run(lambda: (begun.set(), go_on.wait(20)))
    assert begun.wait(20)
    assert not devices.close(0)
    go_on.set()
    assert devices.close(20)


def test_devices_have_the_names_that_linux_gives_them(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n")
    card = tmp_path / "driver/nvidia/gpus/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t Some GPU\nIRQ: 5\n")
    assert describe_device("CPUExecutionProvider", tmp_path) == "Some CPU @ 3 GHz"
    assert describe_device("CUDAExecutionProvider", tmp_path) == "Some GPU"
    assert describe_device("CPUExecutionProvider", tmp_path / "none") == ""


async def test_a_turn_waits_for_its_slots_and_nothing_else_starts_before_it():
    device, asked = Device(2), []
    device.subscribe(lambda: asked.append(device.free))
    device.take(1)
    turn = device.turn(2)
    waiting = asyncio.ensure_future(turn.__aenter__())
    await asyncio.sleep(0)
    assert not device.has_room
    assert (waiting.done(), asked) == (False, [])
    device.give_back(1)
    await waiting
    assert (device.free, asked) == (0, [])
    await turn.__aexit__(None, None, None)
    assert (device.free, asked) == (2, [2])


async def test_subscribers_are_called_between_two_turns():
    device, order = Device(2), []

    def dispatch():
        if not order or order[-1] != "batch":
            order.append("batch")

    async def measured():
        async with device.turn(2):
            order.append("turn")
            await asyncio.sleep(0)

    device.subscribe(dispatch)
    for _ in range(2):
        await measured()
    assert order == ["turn", "batch", "turn", "batch"]


async def test_a_cancelled_turn_delays_nothing():
    device, asked = Device(1), []
    device.take(1)
    waiting = asyncio.ensure_future(device.turn(1).__aenter__())
    await asyncio.sleep(0)
    device.subscribe(lambda: asked.append(device.has_room))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert asked == [True]
    device.give_back(1)
    assert device.free == 1
