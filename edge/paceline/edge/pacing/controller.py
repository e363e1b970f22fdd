"""Mode `auto`: moves through the space between cloud streaming, rounds and a stream, and says why.

It fits costs as the verifier answers (`Estimates`), predicts what each way of working would give with them
(`paceline.common.speed`), corrects predictions by what was measured, and takes the best by the objective. It changes
its mind only for a clear gain (hysteresis). Decisions look at times and at past verdicts, never at a drafted token that
is then dropped (methods E11); where block lengths follow confidence, the rule is immune (`lookahead.is_immune`).
"""

from paceline.common.messages import FillPolicy, Opened
from paceline.common.speed.costs import Prediction
from paceline.common.speed.formulas import best_sync_length, predict_cloud, predict_sync
from paceline.common.speed.stream import predict_stream
from paceline.common.tokens import Rule
from paceline.edge.draft_length import Plan
from paceline.edge.pacing.base import Learned, Situation
from paceline.edge.pacing.estimates import Estimates
from paceline.edge.pacing.fixed import MAX_BLOCKS_IN_FLIGHT
from paceline.edge.pacing.lookahead import Lookahead
from paceline.edge.pacing.ways import Way
from paceline.edge.request import Decision, GenerationRequest

_GAIN = 1.03
"""What another way of working must promise before it is taken."""
_THRIFTY = 0.5
"""Weight of target passes from which on none is spent on filling: nothing but rounds is left then."""
_EVERY = 4
"""Verdicts between two looks at the figures: a prediction costs a fraction of a millisecond."""
_SHADOW_EVERY = 24
"""Committed tokens between two blocks that are drafted for comparison alone while nothing is sent."""
_SHADOW_BLOCK = 4
_ECHO_EVERY_S = 0.1


class Controller:
    """The pacing of mode `auto`.

    Args:
        request: its objective, and block length where given.
        estimates: what is known; shared by the texts of a client.
        log: where decisions go.
    """

    drafts = True

    def __init__(self, request: GenerationRequest, estimates: Estimates, log: list[Decision]) -> None:
        self._request = request
        self._estimates = estimates
        self._records = estimates.records
        self._log = log
        self._began_s: float | None = None
        self._num_verdicts = 0
        self._shadow_at = 0
        self._echo_s = 0.0
        immune = request.effective_rule is not Rule.REJECTION
        thrift = request.objective.weight
        self.fill = request.fill or (FillPolicy.OFF if thrift > _THRIFTY else FillPolicy.AUTO)
        self._ways = _ways(self.fill, is_thrifty=thrift > _THRIFTY)
        self._lookahead = Lookahead(
            estimates, immune=immune, waits=self.fill is FillPolicy.OFF, thrift=thrift
        )
        self._predictions = self._predict()
        self.way = self._first_way()
        self._why = "first guess" if not self._predictions else self._comparison()

    @property
    def streams(self) -> bool:
        """Whether a block is followed by further ones before its verdict."""
        return self.way is Way.STREAM

    @property
    def max_blocks_in_flight(self) -> int:
        """By the way of working."""
        if self.way is Way.CLOUD:
            return 0
        return 1 if self.way is Way.ROUNDS else self._request.max_blocks_in_flight or MAX_BLOCKS_IN_FLIGHT

    # --- what to do now -----------------------------------------------------------------------------------------------

    def plan(self, situation: Situation) -> Plan | None:
        """The next block."""
        self._note_first(situation)
        if self.way is Way.CLOUD:
            return self._shadow(situation)
        if self.way is Way.ROUNDS and situation.num_unsent and situation.blocks_in_flight:
            return None  # the next block is written; it waits for the verdict
        if situation.blocks_in_flight >= MAX_BLOCKS_IN_FLIGHT:
            return None
        block = self._request.num_speculative_tokens
        if block is None:
            return self._lookahead.plan(situation)
        if self.way is Way.ROUNDS and situation.blocks_in_flight:
            block += 1  # the verifier's own token takes the place of the first
        return Plan(block)

    def _shadow(self, situation: Situation) -> Plan | None:
        """Now and then a few tokens are written and compared with what the verifier says, at no cost to it."""
        if situation.ahead_probs or situation.known < self._shadow_at:
            return None
        self._shadow_at = situation.known + _SHADOW_EVERY
        return Plan(_SHADOW_BLOCK)

    def wants_echo(self, situation: Situation) -> bool:
        """Only while nothing else measures the link; at once after one that says the link has changed."""
        if self.way is not Way.CLOUD:
            return False
        is_due = situation.now_s - self._echo_s >= _ECHO_EVERY_S or not self._estimates.round_trip.is_settled
        if is_due:
            self._echo_s = situation.now_s
        return is_due

    # --- what was learnt ----------------------------------------------------------------------------------------------

    def on_opened(self, opened: Opened, round_trip_s: float) -> None:
        """Start from the verifier's own figures."""
        self._estimates.on_opened(opened, round_trip_s)

    def on_drafted(self, num_tokens: int, draft_s: float) -> None:
        """Fit the drafter's cost."""
        self._estimates.on_drafted(num_tokens, draft_s)

    def learn(self, learned: Learned) -> None:
        """Fit the rest; look at the figures every few verdicts."""
        self._estimates.learn(learned)
        if learned.num_added and learned.since_s:
            predicted = self._predictions.get(self.way)
            self._records[self.way].observe(
                learned.num_added, learned.since_s, predicted.tokens_per_s if predicted else 0.0
            )
        self._num_verdicts += 1
        if self._num_verdicts % _EVERY == 0:
            self._decide(learned)

    def _decide(self, learned: Learned) -> None:
        self._predictions = self._predict()
        if not self._predictions:
            return
        for way, record in self._records.items():
            if way is not self.way:
                record.forget()
        best = max(self._ways, key=self._score)
        if self._score(best) > _GAIN * self._score(self.way):
            self.way = best
            self._why = self._comparison()
            self._note(learned.known, learned.now_s)

    # --- predictions --------------------------------------------------------------------------------------------------

    def _predict(self) -> dict[Way, Prediction]:
        costs = self._estimates.costs()
        if costs is None:
            return {}
        block = self._request.num_speculative_tokens or self._lookahead.block
        window = block * (self._request.max_blocks_in_flight or MAX_BLOCKS_IN_FLIGHT)
        ahead = min(window, self._lookahead.typical_length)
        return {
            Way.CLOUD: predict_cloud(costs),
            Way.STREAM: predict_stream(costs, block, ahead, fill=self.fill is not FillPolicy.OFF),
            Way.ROUNDS: predict_sync(costs, best_sync_length(costs)),
        }

    def _score(self, way: Way) -> float:
        prediction = self._predictions[way]
        rate = self._records[way].ratio * prediction.tokens_per_s
        return self._request.objective.score(rate, prediction.passes_per_token)

    def _first_way(self) -> Way:
        return max(self._ways, key=self._score) if self._predictions else self._ways[0]

    # --- the log ------------------------------------------------------------------------------------------------------

    def _comparison(self) -> str:
        parts = (
            f"{way} {self._records[way].ratio * prediction.tokens_per_s:.1f}"
            for way, prediction in self._predictions.items()
        )
        return f"expected tokens/s: {', '.join(parts)}"

    def _note_first(self, situation: Situation) -> None:
        if self._began_s is None:
            self._began_s = situation.now_s
            self._note(situation.known, situation.now_s)

    def _note(self, committed: int, now_s: float) -> None:
        estimates, began_s = self._estimates, self._began_s
        known = {
            "round_trip_s": estimates.round_trip.typical_s,
            "jitter_s": estimates.round_trip.jitter_s,
            "draft_token_s": estimates.draft_token_s,
            "verify_fixed_s": estimates.verify.fixed_s,
            "verify_per_token_s": estimates.verify.per_token_s,
            "queue_s": estimates.queue_s,
            "acceptance": estimates.confidence.mean,
        }
        known |= {f"{way}_tokens_per_s": one.tokens_per_s for way, one in self._predictions.items()}
        action = f"{self.way}, fill {self.fill}, blocks of {self._block_text()}"
        self._log.append(Decision(committed, now_s - (began_s or now_s), action, self._why, known))

    def _block_text(self) -> str:
        return str(self._request.num_speculative_tokens or f"about {self._lookahead.block}")


def _ways(fill: FillPolicy, *, is_thrifty: bool) -> tuple[Way, ...]:
    """Those that get on with this fill; what is taken first while nothing is known leads."""
    if is_thrifty:
        return (Way.ROUNDS,)
    if fill in (FillPolicy.OFF, FillPolicy.BOUNDED):
        return (Way.STREAM, Way.ROUNDS)  # who sends nothing would wait for ever
    return (Way.STREAM, Way.CLOUD, Way.ROUNDS)


def controller(request: GenerationRequest, estimates: Estimates, log: list[Decision]) -> Controller:
    """The pacing of mode `auto` for one text."""
    return Controller(request, estimates, log)
