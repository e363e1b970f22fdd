"""What a client has measured of its drafter, its verifier and the link between them. Shared by all its texts."""

from collections import deque
from dataclasses import dataclass, field

from paceline.common.calibration import Calibration
from paceline.common.cost import CostLine
from paceline.common.messages import Opened
from paceline.common.speed.costs import Costs
from paceline.edge.pacing.base import Learned
from paceline.edge.pacing.ways import Record, Way

_RECENT = 6
"""Round trips that are remembered: a change of the link is believed after as many blocks."""
_NEWS = 0.25
"""A round trip that differs by such a share from the usual ones may be a change of the link."""
_NOISE_S = 0.003
_KEEP = 0.95
"""Weight of the past in running sums, per verdict."""


@dataclass(slots=True)
class RoundTrip:
    """The link's round trip, seconds. A measurement may contain a wait at the verifier, but is never too short."""

    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _believed: float = 0.0

    def believe(self, seconds: float) -> None:
        """A first idea, until something was measured."""
        if not self._recent:
            self._believed = seconds

    def observe(self, seconds: float) -> None:
        """Take a measurement into account."""
        self._recent.append(max(seconds, 0.0))

    @property
    def least_s(self) -> float:
        """The shortest of the recent ones: the link without jitter and queues."""
        return min(self._recent, default=self._believed)

    @property
    def jitter_s(self) -> float:
        """How much longer they are on average."""
        return sum(self._recent) / len(self._recent) - self.least_s if self._recent else 0.0

    @property
    def typical_s(self) -> float:
        """The median of the recent ones."""
        recent = sorted(self._recent)
        return recent[len(recent) // 2] if recent else self._believed

    @property
    def is_settled(self) -> bool:
        """Whether the last one says nothing new."""
        return not self._recent or abs(self._recent[-1] - self.typical_s) <= max(
            _NEWS * self.typical_s, _NOISE_S
        )


@dataclass(slots=True)
class Pace:
    """Committed tokens per second, lately."""

    tokens: float = 0.0
    seconds: float = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """Tokens that took so long."""
        self.tokens = _KEEP * self.tokens + tokens
        self.seconds = _KEEP * self.seconds + seconds

    @property
    def s_per_token(self) -> float:
        """0 while nothing is known."""
        return self.seconds / self.tokens if self.tokens else 0.0


class Estimates:
    """Costs and chances, fitted as the verifier answers."""

    def __init__(self) -> None:
        self.confidence = Calibration()
        self.round_trip = RoundTrip()
        self.verify = CostLine()
        self.drafting = CostLine()
        self.pace = Pace()
        self.queue_s = 0.0
        self.records = {way: Record() for way in Way}

    def on_opened(self, opened: Opened, round_trip_s: float) -> None:
        """Start from the verifier's own figures: it sees steps of many sizes, this side few."""
        self.round_trip.believe(round_trip_s)
        self.verify.prior_per_token_s = opened.verify_per_token_s
        if not self.verify.fixed_s:
            self.verify.fixed_s = opened.verify_fixed_s
            self.verify.per_token_s = opened.verify_per_token_s

    def on_drafted(self, num_tokens: int, draft_s: float) -> None:
        """A block has a price of its own besides its tokens'; until lengths differ, the best seconds per token seen so
        far is what a token is taken to cost."""
        if num_tokens:
            per_token_s = draft_s / num_tokens
            self.drafting.prior_per_token_s = min(self.drafting.prior_per_token_s or per_token_s, per_token_s)
            self.drafting.observe(num_tokens, draft_s)

    def learn(self, learned: Learned) -> None:
        """Take a verdict into account."""
        for prob, stood in learned.judged:
            self.confidence.observe(prob, stood)
        if learned.round_trip_s is not None:
            self.round_trip.observe(learned.round_trip_s)
        if learned.num_added and learned.since_s:
            verdict = learned.verdict
            if verdict.verify_s:
                self.verify.observe(1 + verdict.num_judged, verdict.verify_s)
            self.queue_s += 0.1 * (verdict.queue_s - self.queue_s)
            self.pace.observe(learned.num_added, learned.since_s)

    @property
    def draft_token_s(self) -> float:
        """Seconds per drafted token; 0 before the first."""
        return self.drafting.per_token_s

    @property
    def decode_s(self) -> float:
        """Seconds of a target pass over one token; 0 before the first."""
        return self.verify.fixed_s + self.verify.per_token_s

    def costs(self) -> Costs | None:
        """All of it, for predictions; None before the first block and the first pass."""
        if not self.draft_token_s or not self.decode_s:
            return None
        return Costs(
            draft_s=self.draft_token_s,
            verify_fixed_s=self.verify.fixed_s,
            verify_per_token_s=self.verify.per_token_s,
            round_trip_s=self.round_trip.typical_s,
            acceptance=min(max(self.confidence.mean, 0.01), 0.99),
        )
