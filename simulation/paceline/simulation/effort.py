"""What a machine reads again that it had read before, as its streams show it."""

from dataclasses import dataclass, field

from paceline.common.errors import Status
from paceline.common.messages import (
    Cancel,
    ClientMessage,
    Close,
    ErrorMessage,
    Finished,
    Open,
    Opened,
    Provisional,
    ServerMessage,
)
from paceline.common.tokens import Rule, Verdict

_SLACK_S = 3.0
"""What passes between the end of a stream and the verifier's hearing of it, while its steps are slow."""
Name = tuple[str, bytes]


@dataclass(slots=True)
class Watched:
    """One stream of a session, as it passes."""

    name: Name
    opening: Open
    opened_s: float
    num_read: int = 0
    """Tokens that are cached for certain."""
    ended_s: float | None = None
    is_over: bool = False
    """Nothing of it is to be kept."""

    def hears(self, message: ClientMessage) -> None:
        """The client said something."""
        self.is_over |= isinstance(message, Close | Cancel)

    def says(self, message: ServerMessage, *, is_last_hop: bool) -> None:
        """The machine answered."""
        match message:
            case Opened():
                self.num_read = message.cached_length
            case Finished():
                self.is_over = True
            case ErrorMessage():
                self.is_over |= message.fatal and message.status is not Status.ABORTED
            case Verdict() | Provisional():
                verdict = message.verdict if isinstance(message, Provisional) else message
                # Where a model writes it has read all before. But for what came with `Open`, a relay's text may be
                # rewritten there, and under rejection another verifier may write another one.
                is_own = verdict.author == 0 and verdict.next_token_id is not None
                if is_own and is_last_hop and self.opening.rule is not Rule.REJECTION:
                    self.num_read = max(self.num_read, verdict.base)
                elif is_own and (is_last_hop or isinstance(message, Provisional)):
                    self.num_read = max(self.num_read, self.length - 1)

    @property
    def length(self) -> int:
        """Of the text it was opened with."""
        return len(self.opening.prompt_token_ids) + len(self.opening.committed_token_ids)


@dataclass(slots=True)
class Effort:
    """The sessions of a machine since it started. Where one is opened again, what was read is to be cached."""

    park_s: float
    faults: list[str] = field(default_factory=list)
    """What should not have been."""
    num_hits: int = 0
    _last: dict[Name, Watched] = field(default_factory=dict)
    _asked: dict[Name, int] = field(default_factory=dict)
    """How many streams each session has had, those included that were gone before they were answered."""

    def asked(self, stream: Watched) -> None:
        """A stream begins."""
        self._asked[stream.name] = self._asked.get(stream.name, 0) + 1

    def lost(self) -> None:
        """The machine died, and all it had kept with it."""
        self._last.clear()
        self._asked.clear()

    def opened(self, stream: Watched, message: Opened) -> None:
        """A stream was taken."""
        past = self._last.get(stream.name)
        self._last[stream.name] = stream
        self.num_hits += message.cached_length > 0
        what = (
            f"text {stream.opening.request_id} found {message.cached_length} of {stream.length} tokens cached"
        )
        if message.cached_length and self._asked[stream.name] == 1:
            self.faults.append(f"{what}, which nobody left")
        if past is None:
            return
        is_late = past.ended_s is not None and stream.opened_s - past.ended_s > self.park_s - _SLACK_S
        is_other = past.opening.prompt_token_ids != stream.opening.prompt_token_ids
        if past.is_over or is_late or is_other or not self.park_s:
            return
        expected = min(past.num_read, stream.length - 1)
        if message.cached_length < expected:
            self.faults.append(f"{what}, where {expected} had been read")
