"""All that a seed decides: machines and the links between them, the texts to be written, and the faults that happen."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from paceline.cloud.quotas import UNLIMITED, Quota
from paceline.common.messages import FillPolicy
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.request import GenerationRequest

VOCAB_SIZE = 13
CACHE_OF_A_TEXT, SHORT_BLOCK = 64, 8
"""Tokens, in whole pages: prompt, answer and the longest block, where room is short."""
Kind = Literal[
    "stall", "reset", "reset at a message", "one way up", "one way down", "deaf edge", "deaf verifier", "repeat",
    "clog", "slow", "crash", "drain",
]  # fmt: skip
OF_LINKS: tuple[Kind, ...] = (
    "stall", "reset", "reset at a message", "reset at a message", "one way up", "one way down", "deaf edge",
    "deaf verifier", "repeat", "clog", "slow",
)  # fmt: skip
"""Faults that lose no machine."""
OF_MACHINES: tuple[Kind, ...] = ("crash", "crash", "drain", "slow")
Family = Literal["links", "machines", "overload", "all"]
Form = Literal["straight", "pair", "relay", "relay, pair", "past a relay", "two relays"]
FORMS: dict[Form, tuple[tuple[int, ...], ...]] = {
    "straight": ((0,), ()),
    "pair": ((0, 1), (), ()),
    "relay": ((0,), (1,), ()),
    "relay, pair": ((0,), (1, 2), (), ()),
    "past a relay": ((0, 1), (1,), ()),
    "two relays": ((0,), (1,), (2,), ()),
}
"""The machines that the edge, and then each machine, may open a stream at, the best first."""
LONG_S = 40.0
"""What everything beside the steps may take after the last fault."""
_STOLEN = 0.4
"""Chance that a text is asked for with another tenant's session id, where there is another tenant."""
_FOR_GOOD_S = 3000.0
"""A machine that stays away so long is not waited for."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a link or machine."""

    at_s: float
    kind: Kind
    where: int
    """Index of the link or machine."""
    duration_s: float
    grace_s: float = 0.0
    """Of a drain."""
    num_messages: int = 0
    """Of a reset at a message: how many still pass."""

    @property
    def end_s(self) -> float:
        """When nothing of it is left that a text has to wait for."""
        return self.at_s + self.grace_s + (self.duration_s if self.duration_s < _FOR_GOOD_S else 0.0)


@dataclass(frozen=True, slots=True)
class Text:
    """A text to be written, from when on and how."""

    request: GenerationRequest
    mode: str
    begin_s: float
    give_up_after: int | None
    """Tokens after which its client leaves."""
    tenant: str = ""
    then: GenerationRequest | None = None
    """Asked for after that, under the same session id."""


@dataclass(frozen=True, slots=True)
class World:
    """All that a seed decides."""

    seed: int
    family: Family
    form: Form
    round_trips_s: tuple[float, ...]
    lag_s: float
    """By how much more one stream may be late than another of the same link."""
    step_s: float
    draft_s: float
    agreement: float
    """Of the edge's drafter with the target."""
    relay_agreement: float
    max_sessions: int
    park_s: float
    max_parked: int
    texts: tuple[Text, ...]
    faults: tuple[Fault, ...]
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    """Of tenants that have some."""

    @property
    def bound_s(self) -> float:
        """When every text must be complete."""
        last_s = max((fault.end_s for fault in self.faults), default=0.0)
        num_tokens = sum(text.request.max_new_tokens for text in self.texts)
        per_token_s = (
            4 * (self.step_s + self.draft_s)
            + 2 * sum(self.round_trips_s)
            + 2 * self.lag_s * len(self.round_trips_s)
        )
        return last_s + LONG_S + self._paced_s + num_tokens * per_token_s

    @property
    def _paced_s(self) -> float:
        """What quotas cost at most: every token of a paced tenant may take a whole draft's positions, for each stream
        a prompt, and each open its turn."""
        paced_s = 0.0
        for text in self.texts:
            quota, request = self.quotas.get(text.tenant, UNLIMITED), text.request
            if quota.positions_per_s is not None:
                paced_s += (1 + len(self.faults)) * request.end / quota.positions_per_s
                paced_s += 16 * request.max_new_tokens / quota.positions_per_s
        return paced_s


def world(seed: int) -> World:
    """The world of a seed."""
    dice, others = random.Random(seed), random.Random(f"{seed} sessions")
    family: Family = dice.choice(get_args(Family))
    form: Form = dice.choice(get_args(Form))
    reaches = FORMS[form]
    num_links = sum(len(reach) for reach in reaches)
    num_texts = dice.randint(3, 5) if family == "overload" else dice.randint(1, 3)
    plain = World(
        seed=seed,
        family=family,
        form=form,
        round_trips_s=tuple(dice.choice([0.002, 0.02, 0.1]) for _ in range(num_links)),
        lag_s=dice.choice([0.0, 0.05, 0.4]),
        step_s=dice.choice([0.005, 0.02, 0.25]),
        draft_s=dice.choice([0.001, 0.01]),
        agreement=dice.choice([0.2, 0.7, 0.95]),
        relay_agreement=dice.choice([0.3, 0.8]),
        max_sessions=dice.randint(1, 2) if family == "overload" else 16,
        park_s=others.choice([0.0, 2.0, 30.0, 30.0, 30.0]),
        max_parked=others.randint(0, 4) if family == "overload" else 16,
        texts=_named(others, [_text(dice, f"{seed}-{index}") for index in range(num_texts)]),
        faults=tuple(sorted(_faults(dice, family, form), key=lambda one: one.at_s)),
    )
    return _with_tenants(plain) if family == "overload" else plain


def _with_tenants(plain: World) -> World:
    """Some of the texts, and some more, are of a tenant with quotas. Dice of its own: the rest of a world stays."""
    dice = random.Random(f"{plain.seed} tenants")
    if dice.random() < 0.5:
        return plain
    more = [_text(dice, f"{plain.seed}-more-{index}") for index in range(dice.randint(1, 3))]
    tenants = ("small", "large", "")
    texts: list[Text] = []
    for text in (*plain.texts, *more):  # no two texts are one session
        taken = [one.tenant for one in texts if one.request.session_id == text.request.session_id != b""]
        texts.append(replace(text, tenant=dice.choice([one for one in tenants if one not in taken])))
    small = Quota(
        max_sessions=dice.choice([None, 1, 1, 2]),
        positions_per_s=dice.choice([None, 40.0, 200.0]),
        opens_per_s=dice.choice([None, 2.0, 20.0]),
    )
    max_sessions = dice.choice([plain.max_sessions, 16])
    return replace(plain, texts=tuple(texts), quotas={"small": small}, max_sessions=max_sessions)


def _text(dice: random.Random, name: str) -> Text:
    rule = dice.choice([Rule.GREEDY, Rule.COUPLED, Rule.COUPLED, Rule.REJECTION])
    repetition, frequency = dice.choice([(1.0, 0.0), (1.0, 0.0), (1.3, 0.4)])
    temperature = 0.0 if rule is Rule.GREEDY else 0.9
    request = GenerationRequest(
        prompt_token_ids=tuple(dice.randrange(VOCAB_SIZE) for _ in range(dice.randint(1, 9))),
        max_new_tokens=dice.randint(1, 40),
        sampling=SamplingParams(temperature, repetition_penalty=repetition, frequency_penalty=frequency),
        rule=rule,
        seed=dice.randrange(1 << 32),
        stop_token_ids=dice.choice([(), (), (dice.randrange(VOCAB_SIZE),)]),
        fill=dice.choice([None, None, FillPolicy.OFF, FillPolicy.UNLIMITED]),
        reconnect_s=120.0,
        request_id=name,
    )
    give_up_after = dice.randint(1, 12) if dice.random() < 0.15 else None
    return Text(request, dice.choice(["auto", "stream", "sync", "cloud"]), dice.uniform(0, 1), give_up_after)


def _named(dice: random.Random, texts: list[Text]) -> tuple[Text, ...]:
    """The texts with tenants and session ids. Some are asked for with the id and the prompt of another tenant's; who
    left in the middle comes back under the same id with another prompt."""
    named: list[Text] = []
    for text in texts:
        tenant, request = dice.choice(["acme", "rival"]), text.request
        taken = {(one.tenant, one.request.session_id) for one in named}
        victims = [
            one for one in named if one.tenant != tenant and (tenant, one.request.session_id) not in taken
        ]
        if victims and dice.random() < _STOLEN:
            request = replace(dice.choice(victims).request, request_id=request.request_id)
        else:
            request = replace(request, session_id=dice.randbytes(16))
        *prompt, last = request.prompt_token_ids
        other = replace(
            request,
            prompt_token_ids=(*prompt[:-1], (last + 1) % VOCAB_SIZE, last),
            request_id=f"{request.request_id}b",
        )
        then = other if text.give_up_after is not None else None
        named.append(replace(text, request=request, tenant=tenant, then=then))
    return tuple(named)


def _faults(dice: random.Random, family: Family, form: Form) -> list[Fault]:
    kinds = {"links": OF_LINKS, "machines": OF_MACHINES, "overload": OF_LINKS, "all": get_args(Kind)}[family]
    reaches = FORMS[form]
    num_links, num_machines = sum(len(reach) for reach in reaches), len(reaches) - 1
    replaceable = [reach[0] for reach in reaches if len(reach) > 1]
    faults: list[Fault] = []
    span_s = dice.choice([1.0, 2.0, 5.0])
    for _ in range(dice.randint(2, 8)):
        at_s, kind = dice.uniform(0, span_s), dice.choice(kinds)
        if kind == "clog":
            faults += _clogs(dice, at_s, num_links)
            continue
        where = dice.randrange(num_machines if kind in OF_MACHINES else num_links)
        duration_s = dice.choice([0.001, 0.3, 1.0, 4.0]) * dice.uniform(0.5, 1.5)
        if kind == "crash" and where in replaceable and dice.random() < 0.5:
            duration_s = _FOR_GOOD_S
        grace_s = dice.choice([0.1, 3.0]) if kind == "drain" else 0.0
        num_messages = dice.randint(0, 40) if kind == "reset at a message" else 0
        faults.append(Fault(at_s, kind, where, duration_s, grace_s, num_messages))
    return faults


def _clogs(dice: random.Random, at_s: float, num_links: int) -> list[Fault]:
    """Links stop one by one and come back in another order."""
    links = dice.sample(range(num_links), dice.randint(1, num_links))
    stops = sorted(at_s + dice.uniform(0, 1) for _ in links)
    return [
        Fault(stop_s, "stall", link, dice.uniform(1.0, 3.0) + stops[-1] - stop_s)
        for link, stop_s in zip(links, stops, strict=True)
    ]
