"""The seam between the scheduler and a target model: rows of tokens go in, rows of logits come out.

An engine keeps, per session, the keys and values of the tokens it has run. It knows positions and token ids,
nothing of drafts, prompts, users or time. Rolling back is no operation of its own: a later row simply names a
smaller `past_length`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from paceline.common.errors import InternalError, InvalidRequest, OutOfRange
from paceline.common.trees import depths, principal_length, problem

if TYPE_CHECKING:
    from paceline.common.sampling.rows import LogitRows


@dataclass(frozen=True, slots=True)
class Row:
    """One session's slice of an engine step."""

    key: int
    """The session, in the engine's books. A new key opens a new session."""
    past_length: int
    """Cached tokens to keep; smaller than last time means rollback, which costs nothing."""
    token_ids: Sequence[int]
    """Tokens to run at positions `past_length`, `past_length + 1`, …; at least one."""
    num_logits: int
    """Logits wanted for the last n of them; 0 for a prefill chunk."""
    parents: Sequence[int] = ()
    """Of the last tokens, where those form a tree (`paceline.common.trees`): -1 is the token before them, and there is
    one. A token of the tree sees its ancestors and all before the tree; its position is that of its depth. Empty for a
    chain."""

    @property
    def positions(self) -> Sequence[int]:
        """Where each of the tokens stands in its text."""
        if not self.parents:
            return range(self.past_length, self.past_length + len(self.token_ids))
        first = self.past_length + len(self.token_ids) - len(self.parents)
        return [*range(self.past_length, first), *(first + depth for depth in depths(self.parents))]

    @property
    def num_kept(self) -> int:
        """How many of the tokens are cached afterwards: of a tree the principal chain alone, the rest is no text."""
        if not self.parents:
            return len(self.token_ids)
        return len(self.token_ids) - len(self.parents) + principal_length(self.parents)


class TargetEngine(Protocol):
    """One model and the cached tokens of every session. Not thread-safe: one thread owns it."""

    @property
    def vocab_size(self) -> int:
        """Width of a row of logits."""
        ...

    @property
    def max_context(self) -> int:
        """Longest session, in tokens."""
        ...

    @property
    def capacity_tokens(self) -> int:
        """Cached tokens, over all sessions, that fit."""
        ...

    @property
    def page_size(self) -> int:
        """Tokens a session's cache grows by; capacity is counted in whole pages."""
        ...

    @property
    def takes_trees(self) -> bool:
        """Whether rows may have `parents`."""
        ...

    def step(self, rows: Sequence[Row]) -> "Sequence[LogitRows]":
        """One forward over all rows, of any lengths; element i holds `rows[i].num_logits` rows of logits.

        The result is valid until the next call. On any error nothing is cached that was not before, except
        that a row which would have rolled its session back may have done so.

        Raises:
            Busy: the cache cannot hold the step; nothing was changed. Release a session, or retry with fewer
                rows.
            OutOfRange: a row ends beyond `max_context`.
            InvalidRequest: a token id lies outside the vocabulary, or a row is a tree and the engine takes none.
            InternalError: a row contradicts the engine's books (two rows of one session, a past never
                cached), or its parents are no tree.
        """
        ...

    def release(self, key: int) -> None:
        """Forget a session; an unknown key is no error."""
        ...

    def cached_tokens(self) -> int:
        """Tokens cached now, over all sessions."""
        ...

    def check_integrity(self) -> None:
        """Raise `InternalError` if the books do not add up (a leaked page, a shared page, a session without
        one)."""
        ...


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How a `PagedEngine` is sized."""

    capacity_tokens: int | None = None
    """Cached tokens over all sessions. None: as many as `memory_fraction` of the free memory holds."""
    memory_fraction: float = 0.5
    """Share of the memory free at start that the cache may take, in (0, 1]; used when `capacity_tokens` is
    None."""
    page_size: int = 16
    """Granule of allocation, tokens. With `attention="varlen"` it must be a multiple of 256."""
    max_context: int | None = None
    """Longest session, tokens. None: what the model was built for."""
    attention: Literal["sdpa", "varlen"] = "sdpa"
    """`sdpa` runs anywhere, one call per session and layer; `varlen` is one kernel for all sessions (CUDA,
    half precision, not yet run)."""
    self_check: bool = True
    """Compare a short ragged run with the model's plain forward at start, and refuse the model if they
    differ."""

    def __post_init__(self) -> None:
        if self.page_size < 1:
            raise InvalidRequest(f"page_size is {self.page_size}", field="page_size", cure="at least 1")
        if not 0.0 < self.memory_fraction <= 1.0:
            raise InvalidRequest(
                f"memory_fraction is {self.memory_fraction}", field="memory_fraction", cure="in (0, 1]"
            )
        for name in ("capacity_tokens", "max_context"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidRequest(f"{name} is {value}", field=name, cure="at least 1")


def check_rows(
    rows: Sequence[Row],
    cached_lengths: dict[int, int],
    *,
    vocab_size: int,
    max_context: int,
    takes_trees: bool = True,
) -> None:
    """Raise if `rows` is no step an engine holding `cached_lengths` (session → tokens) can take."""
    if len({row.key for row in rows}) != len(rows):
        raise InternalError("two rows of one step belong to the same session")
    for row in rows:
        count, cached = len(row.token_ids), cached_lengths.get(row.key, 0)
        if not 0 <= row.past_length <= cached:
            raise InternalError(
                f"session {row.key} has {cached} cached tokens; a row asks to keep {row.past_length}"
            )
        if count == 0 or not 0 <= row.num_logits <= count:
            raise InternalError(f"session {row.key}: {row.num_logits} logit rows wanted of {count} tokens")
        if row.parents:
            _check_tree(row, takes_trees)
        end = max(row.positions) + 1 if row.parents else row.past_length + count
        if end > max_context:
            raise OutOfRange(
                f"{end} tokens exceed the model's context of {max_context}",
                field="token_ids",
                cure="shorten the prompt or the answer",
            )
        if min(row.token_ids) < 0 or max(row.token_ids) >= vocab_size:
            bad = next(token for token in row.token_ids if not 0 <= token < vocab_size)
            raise InvalidRequest(
                f"token id {bad} is outside the model's vocabulary of {vocab_size}",
                field="token_ids",
                cure="use this model's tokenizer",
            )


def _check_tree(row: Row, takes_trees: bool) -> None:
    if not takes_trees:
        raise InvalidRequest(
            "this engine runs chains, not trees", field="parents", cure="use attention 'sdpa', or send chains"
        )
    if len(row.parents) >= len(row.token_ids):
        raise InternalError(f"session {row.key}: a tree of {len(row.parents)} tokens has no token before it")
    wrong = problem(row.parents, len(row.parents))
    if wrong:
        raise InternalError(f"session {row.key}: {wrong}")
