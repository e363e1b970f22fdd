"""A draft model without weights that agrees with a table target as much as asked: for tests and
simulation."""

from collections.abc import Sequence

import numpy as np

from paceline.common.errors import InvalidRequest
from paceline.common.prefix import Prefix
from paceline.common.table_model import table_logits
from paceline.edge.drafters.model import Logits, ModelDrafter


class TableRunner:
    """The "cache" is the hash of each prefix."""

    def __init__(self, drafter: "TableDrafter") -> None:
        self._drafter = drafter
        self._prefix = Prefix()

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""
        return self._drafter.num_tokens

    @property
    def max_length(self) -> int:
        """Most tokens the model can consume in one text."""
        return self._drafter.max_length

    def forward(self, past_length: int, token_ids: Sequence[int]) -> Logits:
        """Consume `token_ids` after `past_length` cached tokens; see `ModelRunner.forward`."""
        self._prefix.truncate(past_length)
        self._prefix.extend(token_ids)
        return self._drafter.logits(self._prefix.hash_at(len(self._prefix)))

    def forward_rows(self, past_length: int, token_ids: Sequence[int], num_rows: int) -> Logits:
        """Logits after each of the last `num_rows` tokens; see `RowsRunner.forward_rows`."""
        self.forward(past_length, token_ids)
        end = len(self._prefix)
        lengths = range(end - num_rows + 1, end + 1)
        return np.stack([self._drafter.logits(self._prefix.hash_at(length)) for length in lengths])

    def close(self) -> None:
        """Forget the hashes."""
        self._prefix.truncate(0)


class TableDrafter(ModelDrafter):
    """Logits are `agreement` parts the target's and the rest its own."""

    def __init__(
        self,
        vocab_size: int = 64,
        *,
        target_seed: int = 0,
        own_seed: int = 1,
        agreement: float = 0.8,
        scale: float = 3.0,
        max_length: int = 4096,
    ) -> None:
        """Define the drafter.

        Args:
            vocab_size: number of token ids.
            target_seed: seed of the table target it should resemble.
            own_seed: seed of its errors.
            agreement: 1 has the target's law exactly; 0 is unrelated to it; -1 likes best what it likes least.
            scale: as the target's (`table_logits`).
            max_length: context length it pretends to have.
        """
        if not -1.0 <= agreement <= 1.0:
            raise InvalidRequest(f"agreement={agreement} is not in -1..1", field="drafter.agreement")
        self.num_tokens = vocab_size
        self.max_length = max_length
        self._target_seed = target_seed
        self._own_seed = own_seed
        self._agreement = np.float32(agreement)
        self._scale = scale
        super().__init__("table", lambda: TableRunner(self), vocab_size, max_rows=max_length)

    def logits(self, prefix_hash: int) -> Logits:
        """Logits after the prefix with this hash."""
        target = table_logits(prefix_hash, self.num_tokens, self._target_seed, self._scale)
        own = table_logits(prefix_hash, self.num_tokens, self._own_seed, self._scale)
        return self._agreement * target + (np.float32(1) - abs(self._agreement)) * own
