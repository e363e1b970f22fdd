"""The table model is the same everywhere and its drafter agrees as much as asked."""

import numpy as np
import pytest

from paceline.common.errors import InvalidRequest
from paceline.common.prefix import Prefix
from paceline.common.sampling.choose import Chooser
from paceline.common.table_model import table_logits
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.drafters.table import TableDrafter


def test_logits_are_pinned() -> None:
    """The same prefix gives the same logits on every machine and in every version."""
    assert table_logits(Prefix([1, 2, 3]).hash_at(3), 4, seed=5).tolist() == PINNED


PINNED = [-7.368457317352295, 3.542701244354248, 0.7488656044006348, -1.220226764678955]


def test_logits_look_normal() -> None:
    """Mean 0, standard deviation `scale`, within 3.5 of them."""
    logits = table_logits(12345, 50_000, scale=2.0)
    assert abs(float(logits.mean())) < 0.03
    assert abs(float(logits.std()) - 2.0) < 0.03
    assert float(np.abs(logits).max()) < 7.0
    assert logits.dtype == np.float32


def test_every_prefix_and_seed_has_its_own_logits() -> None:
    """Changing the prefix, its order or the seed changes the logits through and through."""
    rows = [
        table_logits(prefix.hash_at(len(prefix)), 1000, seed)
        for prefix in (Prefix([1, 2]), Prefix([2, 1]), Prefix([1]))
        for seed in (0, 1)
    ]
    correlations = np.corrcoef(np.stack(rows)) - np.eye(len(rows))
    assert float(np.abs(correlations).max()) < 0.15


def test_short_vocabulary_is_the_start_of_a_long_one() -> None:
    """Logits of a token do not depend on how many other tokens there are."""
    assert table_logits(7, 10).tolist() == table_logits(7, 300)[:10].tolist()


def test_full_agreement_is_the_target_exactly() -> None:
    """A drafter of agreement 1 has the target's logits to the bit."""
    drafter = TableDrafter(32, target_seed=4, agreement=1.0)
    assert (drafter.logits(99) == table_logits(99, 32, 4)).all()


def test_more_agreement_agrees_more() -> None:
    """The share of greedy tokens that match the target grows from chance to 1."""
    shares = []
    for agreement in (0.0, 0.3, 0.6, 0.9, 1.0):
        drafter = TableDrafter(32, agreement=agreement)
        hits = [drafter.logits(h).argmax() == table_logits(h, 32, 0).argmax() for h in range(400)]
        shares.append(float(np.mean(hits)))
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[-1] == 1.0


def test_the_opposite_likes_best_what_the_target_likes_least() -> None:
    """At agreement -1 drafts are as bad as they can be."""
    drafter = TableDrafter(32, agreement=-1.0)
    assert all(drafter.logits(h).argmax() == table_logits(h, 32, 0).argmin() for h in range(100))


def test_session_follows_the_prefix_hash() -> None:
    """What a session writes is the greedy text of its own logits, computed from nothing but the prefix."""
    drafter = TableDrafter(32)
    session = drafter.start([3, 1], Chooser(Rule.GREEDY, SamplingParams(), 0, 32))
    prefix = Prefix([3, 1])
    for token_id in session.propose(10).token_ids:
        assert token_id == drafter.logits(prefix.hash_at(len(prefix))).argmax()
        prefix.append(token_id)


def test_agreement_outside_its_range_is_refused() -> None:
    """Agreement is a share."""
    with pytest.raises(InvalidRequest, match="agreement"):
        TableDrafter(agreement=1.5)
