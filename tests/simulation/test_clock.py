"""The virtual clock: timers in order, errors in full, nothing waited for."""

import asyncio

import pytest

from paceline.simulation.clock import VirtualTimeLoop, run_virtual


def test_a_deadlock_names_who_waits() -> None:
    """With the task's name and its coroutine's."""

    async def stuck() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(stuck(), name="the culprit")

    with pytest.raises(RuntimeError, match=r"waiting: .*the culprit in test_a_deadlock.*stuck"):
        run_virtual(main())


def test_an_exception_comes_out_as_it_was_raised() -> None:
    """Like from `asyncio.run`."""

    async def main() -> None:
        await asyncio.sleep(10)
        raise KeyError("the very one")

    with pytest.raises(KeyError, match="the very one"):
        run_virtual(main())


def test_what_is_left_over_is_cancelled_and_generators_are_closed() -> None:
    """Nothing outlives the run, also after a deadlock."""
    ended: list[str] = []

    async def left_over() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    async def main() -> None:
        task = asyncio.create_task(left_over())
        await asyncio.sleep(1)
        assert not task.done()

    run_virtual(main())
    with pytest.raises(RuntimeError):
        run_virtual(left_over())
    assert ended == ["task", "task"]


def test_timeouts_and_timers_share_the_clock() -> None:
    """`wait_for`, `call_at` and `sleep` see the same time, and run in its order."""
    order: list[int] = []

    async def main() -> float:
        loop = asyncio.get_running_loop()
        for number in range(5):
            loop.call_at(50.0 - number, order.append, number)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 100.0)
        return loop.time()

    assert run_virtual(main()) == pytest.approx(100.0)
    assert order == [4, 3, 2, 1, 0]


def test_a_call_from_elsewhere_wakes_the_loop() -> None:
    """`call_soon_threadsafe` works as ever; time does not move for it."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        called = asyncio.Event()
        loop.call_soon_threadsafe(called.set)
        await called.wait()
        return loop.time()

    assert run_virtual(main()) == pytest.approx(0.0, abs=1e-6)


def test_a_long_time_is_exact() -> None:
    """Ten thousand timers in a row drift by less than they are apart."""

    async def main() -> float:
        for _ in range(10_000):
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(10_000, abs=1e-3)
