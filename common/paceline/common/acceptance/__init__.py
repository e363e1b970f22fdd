"""Acceptance rules: how the verifier decides about a draft. The one table of names is `RULES`."""

from collections.abc import Mapping
from types import MappingProxyType

from paceline.common import trees
from paceline.common.acceptance.base import AcceptanceRule, Judgement, SeededDice
from paceline.common.acceptance.match import Match
from paceline.common.acceptance.rejection import Rejection
from paceline.common.errors import BadDraft
from paceline.common.sampling.quantised import check_quantised
from paceline.common.sampling.rows import TargetRows
from paceline.common.tokens import Draft, How, Rule

__all__ = ["RULES", "AcceptanceRule", "Judgement", "check_draft", "judge"]

RULES: Mapping[Rule, AcceptanceRule] = MappingProxyType(
    {
        Rule.GREEDY: Match(Rule.GREEDY),
        Rule.COUPLED: Match(Rule.COUPLED),
        Rule.ONE_HOT: Match(Rule.ONE_HOT),
        Rule.REJECTION: Rejection(),
    }
)


def judge(rule: Rule, draft: Draft, rows: TargetRows, seed: int) -> Judgement:
    """How much of `draft` stands under `rule`, and the verifier's next token.

    Args:
        rule: Name of the rule the session was opened with.
        draft: A block whose prefix was already found equal to the committed text; it may be empty.
        rows: The target's rows for it; see `TargetRows`.
        seed: The session's seed; row `i` uses the numbers of position `draft.base + i`.
    Raises:
        BadDraft: the draft is malformed, or the rule would be biased by it.
        TargetNumerics: a row that was needed holds NaN or infinity.
    """
    check_draft(rule, draft)
    return RULES[rule].judge(draft, rows, SeededDice(seed))


def check_draft(rule: Rule, draft: Draft, vocab_size: int | None = None) -> None:
    """Refuse a draft the rule cannot judge; cheap, so a verifier can ask before it spends a forward pass.

    Raises:
        BadDraft: names what is wrong and the cure.
    """
    accepts = RULES[rule].accepts
    if len(draft) and draft.how not in accepts:
        raise BadDraft(
            f"rule {rule} would be biased by drafts chosen by {draft.how}",
            field="how",
            cure=f"choose drafts by {' or '.join(sorted(accepts))}, or open with rule {Rule.COUPLED}",
        )
    if draft.parents:
        _check_tree(rule, draft)
    if vocab_size is not None and not all(0 <= token_id < vocab_size for token_id in draft.token_ids):
        outside = next(token_id for token_id in draft.token_ids if not 0 <= token_id < vocab_size)
        raise BadDraft(
            f"token id {outside} is not in 0..{vocab_size - 1}",
            field="token_ids",
            cure="use a draft model with the target's vocabulary",
        )
    _check_laws(draft, vocab_size)


def _check_tree(rule: Rule, draft: Draft) -> None:
    if not RULES[rule].judges_trees:
        raise BadDraft(
            f"rule {rule} judges chains, not trees", field="parents", cure="send one chain per block"
        )
    wrong = trees.problem(draft.parents, len(draft))
    if wrong:
        cure = "send the first path first, then branches, parents before their children"
        raise BadDraft(wrong, field="parents", cure=cure)
    if draft.more_follows:
        raise BadDraft(
            "more follows, but nothing continues a tree",
            field="more_follows",
            cure="send a chain, or no more",
        )
    if draft.how is How.SAMPLED:
        return  # equal draws of two drafters are two chances, each with a law of its own
    nodes = list(zip(draft.parents, draft.token_ids, strict=True))
    if len(set(nodes)) != len(nodes):
        parent, token_id = next(node for node in nodes if nodes.count(node) > 1)
        raise BadDraft(
            f"token {token_id} is proposed twice after token {parent} of the tree",
            field="token_ids",
            cure="merge equal siblings",
        )


def _check_laws(draft: Draft, vocab_size: int | None) -> None:
    if draft.how is not How.SAMPLED:
        if draft.laws:
            raise BadDraft(f"drafts chosen by {draft.how} carry no laws", field="laws", cure="leave them out")
        return
    if len(draft.laws) != len(draft):
        raise BadDraft(
            f"{len(draft)} sampled tokens came with {len(draft.laws)} laws",
            field="laws",
            cure="send the law of every sampled token",
        )
    for token_id, law in zip(draft.token_ids, draft.laws, strict=True):
        check_quantised(law, vocab_size)
        if law.prob(token_id) == 0.0:
            raise BadDraft(
                f"token {token_id} has probability 0 under the law it is said to be drawn from",
                field="laws",
                cure="quantise the law first, then sample from it",
            )
