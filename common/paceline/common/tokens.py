"""The values that travel: how tokens are chosen, drafted, judged and committed. Frozen, and free of any wire format.

Vocabulary (after vLLM's glossary): a *drafted* token the verifier agrees with is *accepted*; the token the verifier
puts where it disagrees is *recovered*; the extra one after a fully accepted block is the *bonus*; one the verifier
wrote without any draft is *filled*. A *position* is an absolute, 0-based index into prompt + generated text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from paceline.common.trees import ROOT, path_to

if TYPE_CHECKING:
    from paceline.common.sampling.quantised import QuantisedLaw


class Rule(StrEnum):
    """How the verifier decides about a drafted token. All are exact: the output law is the target's."""

    GREEDY = "greedy"
    """Temperature 0: keep the token iff it is the target's argmax."""
    COUPLED = "coupled"
    """Both ends pick with the same position-keyed noise; keep iff the picks are equal (methods R6)."""
    ONE_HOT = "one-hot"
    """The drafter proposes its likeliest token; the verifier draws its own and keeps the draft iff equal (R2)."""
    REJECTION = "rejection"
    """Leviathan/Chen rejection sampling against the law the draft was really drawn from (R1)."""


class How(StrEnum):
    """How a drafted token was chosen; a rule refuses drafts whose choice would bias it."""

    ONE_HOT = "one-hot"
    """A deterministic function of the past (argmax, n-gram lookup)."""
    SHARED_NOISE = "shared-noise"
    """argmax(log law + noise) with the noise both ends derive from the seed."""
    SAMPLED = "sampled"
    """Drawn with private randomness from the quantised law that travels beside it."""


class Origin(StrEnum):
    """Who wrote a committed token."""

    ACCEPTED = "accepted"
    RECOVERED = "recovered"
    BONUS = "bonus"
    FILLED = "filled"
    UNVERIFIED = "unverified"
    """Written by the drafter alone (mode `local`); no target has seen it."""


class FinishReason(StrEnum):
    """Why a generation ended, in OpenAI's words."""

    STOP = "stop"
    """A stop token was committed (it is the last token of the text)."""
    LENGTH = "length"
    """`max_new_tokens` or the end of the context was reached."""
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The law that is asked for. Applied to the target's logits before any acceptance rule, and by the drafter too.

    Order (as transformers and vLLM have it): logit bias, repetition, presence and frequency penalties, temperature,
    top-k, top-p, min-p, renormalise.
    """

    temperature: float = 0.0
    """0 means greedy; otherwise logits are divided by it. Finite, 0..100."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens whose mass reaches this. In (0, 1]."""
    min_p: float = 0.0
    """Drop tokens less likely than this times the likeliest. In [0, 1]."""
    repetition_penalty: float = 1.0
    """Divide positive and multiply negative logits of tokens seen in prompt or output (CTRL). > 0."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of every token seen in the output. -2..2."""
    frequency_penalty: float = 0.0
    """Subtracted from a logit once per occurrence in the output. -2..2."""
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    """Added to the logits of these token ids before anything else."""

    @property
    def is_greedy(self) -> bool:
        """Whether the law puts all its mass on the argmax."""
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        """Whether the law of a row depends on which tokens came before, beyond the model's own view of them."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def keeps_argmax_of_raw_logits(self) -> bool:
        """Whether the greedy token can be read off the model's raw logits."""
        return not self.has_penalties and not self.logit_bias


@dataclass(frozen=True, slots=True)
class LogprobsRequest:
    """Asks how likely tokens are to the target: the log-softmax of its own logits, before any `SamplingParams`."""

    num_top: int = 0
    """Likeliest tokens told at each position, besides the committed one."""
    prompt: bool = False
    """Whether the prompt's tokens are told as well, from the second on."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely a token was to the target, and what was likeliest."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """Token id and log-probability, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A hint, addressed by content: "if the first `base` tokens hash to `prefix_hash`, this comes next".

    A draft never touches committed state; a stale one is dropped without harm.
    """

    base: int
    """Length of the prefix this block continues, in tokens (prompt included)."""
    prefix_hash: int
    """64-bit hash of that prefix (`paceline.common.prefix`)."""
    token_ids: tuple[int, ...]
    draft_probs: tuple[float, ...]
    """Each token's probability under the law it was drafted from; statistics and confidence only, except that
    rejection reads the exact value from `laws`."""
    how: How
    laws: tuple["QuantisedLaw", ...] = ()
    """One law per token when `how` is SAMPLED, else empty."""
    parents: tuple[int, ...] = ()
    """Tree drafts: index of each token's parent, -1 for a child of the prefix (`paceline.common.trees`). Empty means a
    chain."""
    more_follows: bool = False
    """The drafter goes on; under rejection such a block gets no bonus token."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def path(self, num_accepted: int, accepted_node: int | None) -> Sequence[int]:
        """Indices of the accepted tokens, in the order of the text.

        Args:
            num_accepted: how many.
            accepted_node: in a tree, the last of them; None if there is none.
        """
        if not self.parents:
            return range(num_accepted)
        return path_to(self.parents, ROOT if accepted_node is None else accepted_node)

    def leading(self, num_tokens: int) -> "Draft":
        """The block cut to its first tokens; of a tree that is a tree again."""
        return replace(
            self,
            token_ids=self.token_ids[:num_tokens],
            draft_probs=self.draft_probs[:num_tokens],
            laws=self.laws[:num_tokens],
            parents=self.parents[:num_tokens],
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier decided: the only thing that moves the committed length."""

    base: int
    """Committed length before this verdict; of a provisional one, the length of the known text it continues."""
    num_accepted: int = 0
    """How many tokens stand, from `base` on. The client knows them: they are known text, or it drafted them."""
    next_token_id: int | None = None
    """The verifier's own token after the accepted ones; None when the text ended inside the draft, when a rejection
    block says more follows, or when blocks were dropped as stale and nothing was decided."""
    next_origin: Origin | None = None
    """RECOVERED, BONUS or FILLED; None iff `next_token_id` is."""
    blocks_settled: int = 0
    """How many blocks of this stream are answered or dropped so far; what the client sent beyond it is in flight."""
    verify_s: float = 0.0
    """Duration of the engine step behind this verdict (model, sampling and acceptance), seconds."""
    queue_s: float = 0.0
    """Time the draft waited in the verifier before that step began (or before it was dropped as stale), seconds."""
    num_judged: int = 0
    """How many of the client's drafted tokens the step looked at."""
    filled_token_ids: tuple[int, ...] = ()
    """Tokens the verifier drafted itself and accepted: they follow the accepted ones and precede `next_token_id`."""
    author: int = 0
    """How many hops above the sender the model is that wrote the filled tokens and the next one."""
    accepted_node: int | None = None
    """After a tree: index of the last accepted token, which says which path stands. None if none does; for chains."""
    receipt: bytes = b""
    """By which the last hop's fleet knows again the text up to here; empty where none was asked for."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of every token it commits, if they were asked for; if it commits nothing, of the prompt's from `base` on."""
