"""What a set of draft blocks means for a given committed text. Both ends ask this one function.

A block addresses a prefix by length and hash. Relative to the committed text it is either *stale* (it contradicts
what is committed, or says nothing new), *usable* (it continues the text, or an earlier usable block), or *early* (it
continues something not there yet). Stale blocks cost a comparison and are dropped without an error. A tree is usable
only where it continues the text itself, and alone: nothing is joined to it, and once the text has moved it is stale.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from paceline.common.prefix import Prefix, extend_hash
from paceline.common.tokens import Draft, How


@dataclass(frozen=True, slots=True)
class Merged:
    """The longest chain some blocks form on top of a committed text."""

    draft: Draft | None
    """All usable tokens as one block based at the end of the text; None if no block is usable."""
    used: tuple[int, ...]
    """Indices of blocks wholly contained in `draft`."""
    stale: tuple[int, ...]
    """Indices of blocks that can never become usable."""


class _Tail:
    """Drafted tokens beyond the committed text, with their hashes."""

    def __init__(self, text: Prefix) -> None:
        self.text = text
        self.blocks: list[Draft] = []
        self.token_ids: list[int] = []
        self.laws: list[object] = []
        self.probs: list[float] = []
        self.hashes = [text.hash_at(len(text))]

    @property
    def end(self) -> int:
        return len(self.text) + len(self.token_ids)

    def hash_at(self, length: int) -> int:
        committed = len(self.text)
        return self.text.hash_at(length) if length <= committed else self.hashes[length - committed]

    def token_at(self, position: int) -> int:
        committed = len(self.text)
        token_id: int = self.text[position] if position < committed else self.token_ids[position - committed]
        return token_id

    @property
    def is_tree(self) -> bool:
        return bool(self.blocks) and bool(self.blocks[0].parents)

    def append(self, block: Draft, start: int, count: int) -> None:
        """Take `count` tokens of a block from its index `start` on."""
        taken = slice(start, start + count)
        self.blocks.append(block)
        self.laws.extend(block.laws[taken])
        self.probs.extend(block.draft_probs[taken])
        for token_id in block.token_ids[taken]:
            self.token_ids.append(token_id)
            self.hashes.append(extend_hash(self.hashes[-1], token_id))

    def as_draft(self) -> Draft:
        if self.is_tree:
            return self.blocks[0].leading(len(self.token_ids))
        last = self.blocks[-1]
        return Draft(
            base=len(self.text),
            prefix_hash=self.hashes[0],
            token_ids=tuple(self.token_ids),
            draft_probs=tuple(self.probs),
            how=self.blocks[0].how,
            laws=tuple(self.laws),  # type: ignore[arg-type]
            more_follows=last.more_follows,
        )


def merge(text: Prefix, blocks: Sequence[Draft], max_tokens: int) -> Merged:
    """Chain the usable blocks on top of `text`, at most `max_tokens` tokens in all.

    Blocks chain only while they were chosen the same way, so that one rule can judge the result. A block cut by
    `max_tokens` is not reported as used; what is left of it may be used later. Of a tree that is cut nothing is.
    """
    tail, used, stale = _Tail(text), [], []
    how: How | None = None
    for index, block in enumerate(blocks):
        verdict = _fit(tail, block)
        if verdict is None:
            stale.append(index)
        elif verdict >= 0 and how in (None, block.how):
            fresh = len(block) - verdict
            taken = min(fresh, max_tokens - len(tail.token_ids))
            tail.append(block, verdict, taken)
            how = block.how
            if taken == fresh or block.parents:
                used.append(index)
    return Merged(tail.as_draft() if tail.blocks else None, tuple(used), tuple(stale))


def _fit(tail: _Tail, block: Draft) -> int | None:
    """How many of a block's tokens stand in the tail already; None if it is stale, -1 if it is early."""
    committed = len(tail.text)
    if block.parents or tail.is_tree:
        return _fit_alone(tail, block)
    if block.base > tail.end:
        return -1
    if tail.hash_at(block.base) != block.prefix_hash:
        return None if block.base <= committed else -1
    known = min(tail.end - block.base, len(block))
    for index in range(known):
        if tail.token_at(block.base + index) != block.token_ids[index]:
            return None if block.base + index < committed else -1
    if block.base + len(block) <= committed and not _asks_for_a_step(block, committed):
        return None
    return known if block.base + len(block) >= tail.end else -1


def _fit_alone(tail: _Tail, block: Draft) -> int | None:
    """The same beside a tree, or for one: whatever is there already, nothing is joined to it."""
    committed = len(tail.text)
    if not block.parents:
        return None if _fit(_Tail(tail.text), block) is None else -1
    if block.base > committed:
        return -1
    if block.base < committed or block.prefix_hash != tail.hashes[0]:
        return None
    return -1 if tail.blocks else 0


def _asks_for_a_step(block: Draft, committed: int) -> bool:
    return len(block) == 0 and block.base == committed


class DeadEnds:
    """Prefixes, by length and hash, that the text can no longer have, and what hangs on them.

    When a draft is refuted, blocks that continued it are on their way or waiting already. Nothing committed contradicts
    them yet, for they begin beyond the text; but what they continue is known to be wrong, so they need not hold their
    credit until the text has passed them.

    Args:
        most: how many are remembered, the newest ones: whoever sends one dead block after another must not make this
            grow. As many as may be in flight are enough for whoever keeps to the window.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._prefixes: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._final_length = 0

    def stale(self, text: Prefix, blocks: Sequence[Draft], final_length: int) -> set[int]:
        """Indices of blocks that can never become usable; remembers what they would have led to.

        Args:
            final_length: of the part of the text that will never change; what stands beyond may be taken back.
        """
        found: set[int] = set()
        new = set(merge(text, blocks, max_tokens=0).stale) | self._continuing(text, blocks)
        while new:
            for index in new:
                self._remember(_leads_to(blocks[index], len(text)))
            found |= new
            new = self._continuing(text, blocks) - found
        if final_length != self._final_length:
            self._final_length = final_length
            for one in [one for one in self._prefixes if one[0] <= final_length]:
                del self._prefixes[one]
        return found

    def bury(self, text: Prefix, length: int) -> None:
        """The text is about to be cut to `length`: what stood beyond is not to be."""
        self._remember((end, text.hash_at(end)) for end in range(length + 1, len(text) + 1))

    def _remember(self, prefixes: Iterable[tuple[int, int]]) -> None:
        for one in prefixes:
            self._prefixes[one] = None
            self._prefixes.move_to_end(one)
        while len(self._prefixes) > self._most:
            self._prefixes.popitem(last=False)

    def _continuing(self, text: Prefix, blocks: Sequence[Draft]) -> set[int]:
        """Blocks after a dead prefix. One that stands in the text now has come back to life."""
        return {
            index
            for index, block in enumerate(blocks)
            if (block.base, block.prefix_hash) in self._prefixes
            and not (block.base <= len(text) and text.hash_at(block.base) == block.prefix_hash)
        }


def orphans(text: Prefix, blocks: Sequence[Draft]) -> set[int]:
    """Indices of blocks that continue neither the text nor a block before them."""
    found: set[int] = set()
    reached: set[tuple[int, int]] = set()
    for index, block in enumerate(blocks):
        if block.base > len(text) and (block.base, block.prefix_hash) not in reached:
            found.add(index)
        else:
            reached.update(_leads_to(block, len(text)))
    return found


def _leads_to(block: Draft, length: int) -> Iterator[tuple[int, int]]:
    """Prefixes longer than `length` that end within a block. One that only repeats the text has none; nor has a tree,
    which is stale as soon as the text has moved, whether it was right or not."""
    prefix_hash = block.prefix_hash
    if block.base > length:
        yield block.base, prefix_hash
    if block.parents:
        return
    for end, token_id in enumerate(block.token_ids, block.base + 1):
        prefix_hash = extend_hash(prefix_hash, token_id)
        if end > length:
            yield end, prefix_hash
