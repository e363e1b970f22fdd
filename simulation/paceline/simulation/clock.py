"""An event loop whose time is virtual: when nothing is ready it jumps to the next timer, and an hour is free."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Moves the clock instead of waiting."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError(f"nothing can happen any more; waiting: {_waiting()}")
            # A timer that fires an ulp early would find that its time has not come, for ever: always a little past it.
            self.now_s += max(timeout, 0.0) + 1e-9
        return ready


def _waiting() -> str:
    tasks = asyncio.all_tasks(asyncio.get_running_loop())
    return ", ".join(sorted(f"{task.get_name()} in {_name(task.get_coro())}" for task in tasks)) or "no task"


def _name(coroutine: object) -> str:
    return getattr(coroutine, "__qualname__", repr(coroutine))


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`asyncio.sleep` costs nothing; `loop.time()` is virtual. Threads and real I/O have no place in it."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = 0.0  # asyncio fires timers early by so much

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
