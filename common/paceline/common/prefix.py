"""The committed text as an append-only sequence whose every prefix can be named by a 64-bit hash in O(1).

The hash is a chain: ``h(n) = blake2b_64(h(n-1) || token)``. Appending costs one digest, naming any earlier prefix is
an array lookup, so no message ever has to carry the text again.
"""

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

HASH_BYTES = 8
_EMPTY = bytes(HASH_BYTES)


def extend_hash(prefix_hash: int, token_id: int) -> int:
    """Hash of a prefix followed by one more token."""
    data = prefix_hash.to_bytes(HASH_BYTES, "little") + token_id.to_bytes(4, "little")
    return int.from_bytes(blake2b(data, digest_size=HASH_BYTES).digest(), "little")


class Prefix(Sequence[int]):
    """Tokens with the hash of every prefix. `truncate` exists for drafters' tails; committed text only grows."""

    __slots__ = ("_hashes", "_tokens")

    def __init__(self, token_ids: Iterable[int] = ()) -> None:
        self._tokens = array("I")
        self._hashes = array("Q", [int.from_bytes(_EMPTY, "little")])
        self.extend(token_ids)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # int -> int, slice -> array, as array has it
        return self._tokens[index]

    def append(self, token_id: int) -> None:
        """Add one token."""
        self._hashes.append(extend_hash(self._hashes[-1], token_id))
        self._tokens.append(token_id)

    def extend(self, token_ids: Iterable[int]) -> None:
        """Add tokens in order."""
        for token_id in token_ids:
            self.append(token_id)

    def truncate(self, length: int) -> None:
        """Forget everything from `length` on; `length` is at most the current one."""
        if not 0 <= length <= len(self):
            raise ValueError(f"cannot truncate {len(self)} tokens to {length}")
        del self._tokens[length:]
        del self._hashes[length + 1 :]

    def hash_at(self, length: int) -> int:
        """Hash of the first `length` tokens."""
        return self._hashes[length]

    def list(self, start: int = 0) -> list[int]:
        """Tokens from `start` on, as a list."""
        return self._tokens[start:].tolist()


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    most = min(len(one), len(other))
    # A slice of a `Prefix` is an array, which is gone through many times as fast.
    pairs = enumerate(zip(one[:most], other[:most], strict=True))
    return next((at for at, (a, b) in pairs if a != b), most)
