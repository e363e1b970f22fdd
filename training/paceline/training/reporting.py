"""What a run tells its user: a progress bar on a terminal, plain lines in a log."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from paceline.training.checkpoint import Progress as RunProgress


class Reporter:
    """Reports one run; use it as a context manager."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console(highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(self._title, total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def line(self, text: str) -> None:
        """One line that stays."""
        self._console.print(f"{self._title}: {text}", soft_wrap=True, markup=False)

    def step(self, progress: RunProgress, total_steps: int, loss: float) -> None:
        """How far the run is; ``loss`` is the mean over the last steps."""
        speed = progress.tokens / max(progress.elapsed_s, 1e-9)
        place = f"step {progress.step}/{total_steps}"
        text = f"{place} loss {loss:.4f} {progress.tokens} tokens {speed:.0f} tokens/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, completed=progress.step, total=total_steps, description=f"{self._title}: {text}"
            )
        else:
            self.line(text)

    def measurement(self, progress: RunProgress, figures: dict[str, float]) -> None:
        """Figures on text that is not trained on."""
        listed = " ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.line(f"step {progress.step} {listed} after {progress.elapsed_s:.0f} s")
