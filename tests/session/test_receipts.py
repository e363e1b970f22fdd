"""Receipts: what they vouch for, and what they do not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.receipts import ReceiptKeys, Receipts, read_receipt_keys
from paceline.common.errors import BadReceipt, InvalidRequest
from paceline.common.messages import Open

OLD, NEW = b"a" * 32, b"b" * 40
PROMPT, HISTORY = (1, 2, 3), (4, 5, 6)
MODEL = (b"base", b"its vocabulary")


def receipts(*keys: bytes, model: tuple[bytes, ...] = MODEL, is_required: bool = False) -> Receipts:
    """A verifier's, with these keys."""
    return Receipts(lambda: keys, model, VerifierMetrics(), is_required=is_required)


def written(maker: Receipts, tenant: str = "acme", steps: Any = ((4,), (5, 6))) -> bytes:
    """What a verifier gives for HISTORY, step by step."""
    ledger = maker.begin(tenant, Open(PROMPT, 9))
    return [ledger.receipt(step) for step in steps][-1]


def resumed(receipt: bytes, **changes: Any) -> Open:
    """The text opened again with that proof."""
    opening = Open(PROMPT, 9, committed_token_ids=HISTORY, receipt=receipt, receipt_length=6)
    return replace(opening, **changes)


def test_a_receipt_is_of_the_text_however_it_was_written() -> None:
    """Steps, streams and verifiers do not matter; a receipt goes on from a resumed text."""
    maker = receipts(NEW)
    receipt = written(maker)
    assert len(receipt) == 16
    assert receipt == written(receipts(NEW), steps=((4, 5, 6),))
    ledger = receipts(NEW).begin("acme", resumed(receipt))
    assert ledger.receipt((7,)) == written(maker, steps=((4, 5, 6, 7),))


@pytest.mark.parametrize(
    ("tenant", "changes", "model"),
    [
        pytest.param("rival", {}, MODEL, id="tenant"),
        pytest.param("acme", {}, (b"mid", b"its vocabulary"), id="model"),
        pytest.param("acme", {}, (b"baseits ", b"vocabulary"), id="framing"),
        pytest.param("acme", {"committed_token_ids": (4, 5, 7)}, MODEL, id="token"),
        pytest.param("acme", {"receipt_length": 5}, MODEL, id="length"),
        pytest.param("acme", {"prompt_token_ids": (1, 2, 9)}, MODEL, id="prompt"),
        pytest.param(
            "acme",
            {"prompt_token_ids": (1, 2), "committed_token_ids": (3, 4, 5, 6)},
            MODEL,
            id="where it began",
        ),
    ],
)
def test_a_receipt_is_good_for_nothing_else(
    tenant: str, changes: dict[str, Any], model: tuple[bytes, ...]
) -> None:
    """Another tenant, model, text, or another idea of what was prompt: refused, in the same words."""
    receipt = written(receipts(NEW))
    with pytest.raises(BadReceipt, match="history does not match its receipt"):
        receipts(NEW, model=model).begin(tenant, resumed(receipt, **changes))


def test_history_without_proof_counts_as_prompt_unless_proof_is_required() -> None:
    """What no receipt speaks for is counted, or refused; what follows it is vouched for again."""
    maker = receipts(NEW)
    partly = resumed(written(maker, steps=((4,),)), receipt_length=4)
    for opening, count in ((resumed(b"", receipt_length=0), 3), (partly, 2), (resumed(written(maker)), 0)):
        loose, strict = receipts(NEW), receipts(NEW, is_required=True)
        assert loose.begin("acme", opening).receipt((7,)) == written(maker, steps=((4, 5, 6, 7),))
        value = loose._metrics.registry.get_sample_value("paceline_unproved_tokens_total", {"hop": "cloud"})
        assert value == count
        if count:
            with pytest.raises(BadReceipt, match=f"{count} tokens of history have no receipt"):
                strict.begin("acme", opening)
        else:
            strict.begin("acme", opening)


def test_keys_change_while_old_receipts_hold(tmp_path: Path) -> None:
    """The first key of the file signs, all of them are known again, and the file is read again when it changes."""
    file = tmp_path / "keys"
    file.write_bytes(OLD)
    maker = Receipts(ReceiptKeys(file), MODEL, VerifierMetrics(), is_required=True)
    old = written(maker)
    file.write_bytes(NEW + b"\n" + OLD + b"\n\n")
    maker.begin("acme", resumed(old))
    assert written(maker) == written(receipts(NEW)) != old
    file.write_bytes(NEW)
    with pytest.raises(BadReceipt):
        maker.begin("acme", resumed(old))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "holds no secret"),
        (b"\n \n", "holds no secret"),
        (NEW + b"\nshort", "too short, in line 2"),
        (None, "cannot read"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes | None, what: str) -> None:
    """Names the file and the cure; never shows what it holds."""
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=what) as refused:
        read_receipt_keys(file)
    assert (refused.value.field, "short" in refused.value.message.replace("too short", "")) == (
        "receipt_key",
        False,
    )
    assert refused.value.cure
