import asyncio

import pytest

from service.telemetry.loop_lag import watch_loop_lag


async def test_the_delay_of_each_timer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, clock, lags = asyncio.get_running_loop(), [100.0], []
    delays = iter([0.0, 0.75, -0.1])

    async def sleep(seconds: float) -> None:
        clock[0] += seconds + next(delays)

    def report(seconds: float) -> None:
        lags.append(seconds)
        if len(lags) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(loop, "time", lambda: clock[0])
    with pytest.raises(asyncio.CancelledError):
        await watch_loop_lag(report, sleep)
    assert lags == [0.0, pytest.approx(0.75), 0.0]
