"""A relay's rows: besides judging drafts they say with which probability, and from which law, each token was picked."""

from collections.abc import Sequence

import numpy as np

from paceline.common.sampling.history import History
from paceline.common.sampling.law import Law, processed_logits
from paceline.common.sampling.quantised import QuantisedLaw, quantise
from paceline.common.sampling.rows import LogitRows, TargetRows
from paceline.common.tokens import SamplingParams


class OpinionRows(TargetRows):
    """Rows that can say with which probability a token was picked."""

    def __init__(
        self,
        logits: LogitRows,
        params: SamplingParams,
        history: History,
        draft_token_ids: Sequence[int],
        parents: Sequence[int] = (),
    ) -> None:
        super().__init__(logits, params, history, draft_token_ids, parents)
        self._laws: dict[int, Law] = {}

    def law(self, index: int) -> Law:
        """See `TargetRows.law`."""
        if index not in self._laws:
            self._laws[index] = super().law(index)
        return self._laws[index]

    def said(self, index: int, token_id: int) -> tuple[float, QuantisedLaw | None]:
        """Probability of a token of row `index`, and the law it was drawn from where that travels. At temperature 0 the
        law says nothing: the softmax at temperature 1, as drafters have it."""
        if self.params.is_greedy:
            row = processed_logits(self._logits.row(index), self.params, self._history_at(index))
            return 1.0 / float(np.exp(row - row[token_id]).sum()), None
        return self.law(index).prob(token_id), None


class QuantisedOpinionRows(OpinionRows):
    """The law of a row is what travels: sparse, quantised, and only then drawn from."""

    def __init__(
        self,
        logits: LogitRows,
        params: SamplingParams,
        history: History,
        draft_token_ids: Sequence[int],
        parents: Sequence[int] = (),
    ) -> None:
        super().__init__(logits, params, history, draft_token_ids, parents)
        self._quantised: dict[int, QuantisedLaw] = {}

    def law(self, index: int) -> Law:
        """See `TargetRows.law`."""
        return self._quantised_law(index).as_law()

    def said(self, index: int, token_id: int) -> tuple[float, QuantisedLaw | None]:
        """See `OpinionRows.said`."""
        law = self._quantised_law(index)
        return law.prob(token_id), law

    def _quantised_law(self, index: int) -> QuantisedLaw:
        if index not in self._quantised:
            self._quantised[index] = quantise(super().law(index))
        return self._quantised[index]
