"""What a client and a verifier may say as a session stands: the sound messages that fuzzing begins with."""

import random

from paceline.common.errors import Status
from paceline.common.messages import (
    Cancel,
    ClientMessage,
    Close,
    Draining,
    ErrorMessage,
    Feature,
    FillPolicy,
    Finished,
    Open,
    Opened,
    Provisional,
    ServerMessage,
)
from paceline.common.prefix import Prefix, extend_hash
from paceline.common.sampling.quantised import LATTICE, QuantisedLaw
from paceline.common.session import EdgePhase, EdgeSession, VerifierSession
from paceline.common.tokens import Draft, FinishReason, How, Origin, Rule, SamplingParams, Verdict
from paceline.simulation.lies import VOCAB_SIZE

STOP = 12


class Client:
    """Writes sound messages for a session, as it stands."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def open(self) -> Open:
        """Ask for any text."""
        dice = self._dice
        rule = dice.choice(list(Rule))
        temperature = 0.0 if rule is Rule.GREEDY else dice.choice((0.3, 1.0))
        repetition, frequency = dice.choice(((1.0, 0.0), (1.2, 0.3)))
        top_k, top_p, min_p = dice.choice(((0, 1.0, 0.0), (4, 0.9, 0.05)))
        return Open(
            prompt_token_ids=self._tokens(1, 20),
            max_new_tokens=dice.randint(1, 40),
            sampling=SamplingParams(
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty=repetition,
                frequency_penalty=frequency,
                logit_bias=dice.choice(({}, {3: 1.5, 4: -2.0})),
            ),
            rule=rule,
            fill=dice.choice(list(FillPolicy)),
            seed=dice.getrandbits(64),
            committed_token_ids=self._tokens(0, 1),
            stop_token_ids=dice.choice(((), (STOP,))),
            features=dice.choice((frozenset(Feature), frozenset[Feature]())),
            request_id="fuzz",
        )

    def draft(self, session: VerifierSession | None) -> Draft:
        """A block that continues the text, or repeats some of it, or continues what is not there."""
        dice = self._dice
        text = Prefix((1, 2, 3)) if session is None else session.text
        base = len(text) - dice.choice((0, 0, 0, 0, 0, 0, 1, 2))
        base = max(base, 0)
        prefix_hash = text.hash_at(base)
        for token_id in self._tokens(1, 6) if dice.random() < 0.15 else ():
            base, prefix_hash = base + 1, extend_hash(prefix_hash, token_id)
        token_ids = self._tokens(0, 7)
        how = dice.choice((How.ONE_HOT, How.SHARED_NOISE, How.SAMPLED))
        parents = self._parents(len(token_ids)) if dice.random() < 0.3 else ()
        laws = tuple(self._law(token_id) for token_id in token_ids) if how is How.SAMPLED else ()
        return Draft(
            base, prefix_hash, token_ids, (0.5,) * len(token_ids), how, laws, parents, dice.random() < 0.2
        )

    def any(self, session: VerifierSession | None) -> ClientMessage:
        """Something a client may say now."""
        roll = self._dice.random()
        if roll < (0.95 if session is None else 0.02):
            return self.open()
        if roll < 0.985:
            return self.draft(session)
        return Cancel() if roll < 0.995 else Close()

    def _tokens(self, least: int, most: int) -> tuple[int, ...]:
        return tuple(self._dice.randrange(VOCAB_SIZE) for _ in range(self._dice.randint(least, most)))

    def _law(self, token_id: int) -> QuantisedLaw:
        other = (token_id + 1 + self._dice.randrange(VOCAB_SIZE - 1)) % VOCAB_SIZE
        weight = self._dice.randint(1, LATTICE - 1)
        return QuantisedLaw((token_id, other), (weight, LATTICE - weight))

    def _parents(self, num_tokens: int) -> tuple[int, ...]:
        first = self._dice.randint(1, num_tokens) if num_tokens else 0
        parents = list(range(-1, first - 1))
        for _ in range(num_tokens - first):
            parents.append(self._dice.choice([node for node in range(-1, len(parents)) if node != first - 1]))
        return tuple(parents)


class Liar:
    """Writes what a verifier might answer to a session at the edge, as it stands."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def any(self, session: EdgeSession) -> ServerMessage:
        """Something a verifier or relay may say now."""
        dice = self._dice
        if session.phase is EdgePhase.OPENING and dice.random() < 0.9:
            return self._opened(session)
        match dice.randrange(12):
            case 0:
                return Finished(dice.choice(list(FinishReason)), len(session.committed))
            case 1:
                return self._error(session)
            case 2:
                return Draining(1.0)
            case 3 | 4 | 5:
                return Provisional(self._verdict(session, len(session.known), is_provisional=True))
            case 6:
                return self._opened(session)
            case _:
                return self._verdict(session, len(session.committed))

    def _opened(self, session: EdgeSession) -> Opened:
        return Opened(
            VOCAB_SIZE, 8, 4, len(session.committed), (STOP,), frozenset(Feature), verify_fixed_s=0.01
        )

    def _verdict(self, session: EdgeSession, base: int, *, is_provisional: bool = False) -> Verdict:
        dice = self._dice
        num_accepted = dice.choice((0, 0, 1, 2, 3, 8))
        origin = dice.choice((None, Origin.RECOVERED, Origin.BONUS, Origin.FILLED))
        filled = tuple(dice.randrange(VOCAB_SIZE) for _ in range(dice.choice((0, 0, 1, 3))))
        if is_provisional:
            num_accepted = min(num_accepted, len(filled))
        return Verdict(
            base - dice.choice((0, 0, 0, 1)),
            num_accepted,
            None if origin is None else dice.randrange(VOCAB_SIZE),
            origin,
            blocks_settled=dice.randrange(5),
            num_judged=dice.randrange(5),
            filled_token_ids=filled,
            author=dice.randrange(3),
            accepted_node=dice.choice((None, None, 0, 1, 4)),
        )

    def _error(self, session: EdgeSession) -> ErrorMessage:
        status = self._dice.choice(list(Status))
        return ErrorMessage(status, "BUSY", "no", "sessions", "retry", 0.1, self._dice.random() < 0.5)
