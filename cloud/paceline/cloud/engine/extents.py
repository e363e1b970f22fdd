"""Which pages of the cache belong to which session: every session owns one run of consecutive pages.

Consecutive, so that attention reads a session's keys and values as a view, with nothing gathered. The price
is that a growing session must sometimes move; runs therefore grow by half their size at a time, and when no
gap is wide enough everything moves together once (`compact`). Moving makes capacity exact: a step fits if and
only if the pages in use, summed over sessions, fit. No tensor here; the store carries out the moves."""

from dataclasses import dataclass

from paceline.common.errors import Busy, InternalError


@dataclass(slots=True)
class Run:
    """Pages `start`, …, `start + size - 1` of one session, the first `used` of which hold tokens."""

    start: int
    size: int
    used: int


@dataclass(frozen=True, slots=True)
class Move:
    """Copy `pages` pages from page `source` to page `target`. Moves returned together happen at once."""

    source: int
    target: int
    pages: int


class Extents:
    """The book of runs over `num_pages` pages."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.runs: dict[int, Run] = {}

    def used_pages(self) -> int:
        """Pages that hold tokens, over all sessions."""
        return sum(run.used for run in self.runs.values())

    def check_fits(self, wanted: dict[int, int]) -> None:
        """Raise `Busy`, changing nothing, unless the sessions in `wanted` can use that many pages each."""
        total = sum(wanted.values()) + sum(run.used for key, run in self.runs.items() if key not in wanted)
        if total > self.num_pages:
            raise Busy(
                f"the cache has {self.num_pages} pages and this step needs {total}",
                cure="release a session or retry later",
                retry_after_s=1.0,
            )

    def resize(self, key: int, used: int) -> list[Move]:
        """Give session `key` a run with room for `used` pages and return the moves that keep its content."""
        run = self.runs.get(key)
        if run is not None and used <= run.size:
            run.used = used
            return []
        wanted = used + used // 2
        if run is None:
            start, size = self._find_gap(used, wanted)
            if size == 0:
                return self._compact(key, used)
            self.runs[key] = Run(start, size, used)
            return []
        room = self._gap_after(run)
        if run.size + room >= used:
            run.size, run.used = min(run.size + room, wanted), used
            return []
        start, size = self._find_gap(used, wanted)
        if size == 0:
            return self._compact(key, used)
        move = Move(run.start, start, run.used)
        self.runs[key] = Run(start, size, used)
        return [move]

    def release(self, key: int) -> None:
        """Free a session's run; an unknown key is no error."""
        self.runs.pop(key, None)

    def check_integrity(self) -> None:
        """Raise `InternalError` if runs overlap, are empty, or lie outside the cache."""
        end = 0
        for key, run in sorted(self.runs.items(), key=lambda item: item[1].start):
            if run.start < end or run.start + run.size > self.num_pages:
                raise InternalError(f"pages of session {key} overlap another's or lie outside: {run}")
            if not 1 <= run.used <= run.size:
                raise InternalError(f"session {key} uses {run.used} of {run.size} pages")
            end = run.start + run.size

    def _gap_after(self, run: Run) -> int:
        """Free pages directly behind a run."""
        end = run.start + run.size
        return min((r.start for r in self.runs.values() if r.start >= end), default=self.num_pages) - end

    def _find_gap(self, least: int, wanted: int) -> tuple[int, int]:
        """Start and size of the lowest gap of `wanted` pages, else of the widest with `least`; size 0 if
        none."""
        best_start, best_size, end = 0, 0, 0
        edges = sorted((run.start, run.start + run.size) for run in self.runs.values())
        for start, next_end in [*edges, (self.num_pages, self.num_pages)]:
            gap = start - end
            if gap >= wanted:
                return end, wanted
            if gap >= least and gap > best_size:
                best_start, best_size = end, gap
            end = next_end
        return best_start, best_size

    def _compact(self, key: int, used: int) -> list[Move]:
        """Close every gap, cut every run to what it uses, and put session `key` last."""
        moves, end = [], 0
        grown = self.runs.pop(key, None)
        for run in sorted(self.runs.values(), key=lambda r: r.start):
            if run.start != end:
                moves.append(Move(run.start, end, run.used))
            run.start, run.size = end, run.used
            end += run.used
        if end + used > self.num_pages:
            raise InternalError(f"compaction left {self.num_pages - end} pages where {used} were promised")
        if grown is not None:
            moves.append(Move(grown.start, end, grown.used))
        self.runs[key] = Run(end, min(self.num_pages - end, used + used // 2), used)
        return moves
