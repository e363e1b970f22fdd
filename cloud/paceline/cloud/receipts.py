"""Receipts: by which a fleet of verifiers knows again what one of them wrote.

A receipt is a truncated HMAC-SHA256 over tenant, model, the length of the prompt, and every token of the text. It is
not over the prefix's hash, which two texts can be made to share: 64 bits are enough against accidents, not people.
"""

import hmac
import logging
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from paceline.cloud.metrics import VerifierMetrics
from paceline.common.errors import BadReceipt, InvalidRequest
from paceline.common.hops.security import Watched
from paceline.common.messages import Open
from paceline.common.session import Answer
from paceline.common.session.limits import RECEIPT_BYTES
from paceline.common.tokens import Verdict

log = logging.getLogger(__name__)

MIN_KEY_BYTES = 32
_TAG = b"paceline receipt 1"


def read_receipt_keys(file: Path) -> tuple[bytes, ...]:
    """The secrets of a key file, one per line; the first one signs.

    Raises:
        InvalidRequest: it holds none that can be used.
    """
    try:
        lines = [line.strip() for line in file.read_bytes().splitlines()]
    except OSError as error:
        raise InvalidRequest(
            f"cannot read {file}: {error.strerror}", field="receipt_key", cure="name a file of secrets"
        ) from None
    keys = tuple(line for line in lines if line)
    short = next((number for number, line in enumerate(lines, 1) if 0 < len(line) < MIN_KEY_BYTES), None)
    if not keys or short is not None:
        what = "holds no secret" if short is None else f"holds a secret that is too short, in line {short}"
        raise InvalidRequest(
            f"{file} {what}",
            field="receipt_key",
            cure=f"one per line, at least {MIN_KEY_BYTES} bytes each: openssl rand -hex 32",
        )
    return keys


class ReceiptKeys:
    """The secrets of a file that may change at any time; called, it says what they are now.

    Args:
        file: see `read_receipt_keys`.
    Raises:
        InvalidRequest: it holds none that can be used.
    """

    def __init__(self, file: Path) -> None:
        self._watched = Watched((file,), lambda: read_receipt_keys(file))

    def __call__(self) -> tuple[bytes, ...]:
        self._watched.refresh()
        return self._watched.value


class Ledger:
    """Makes the receipts of one text, each from the one before."""

    def __init__(self, mac: hmac.HMAC) -> None:
        self._mac = mac

    def receipt(self, token_ids: Sequence[int]) -> bytes:
        """Of the text so far with these tokens, which are part of it from now on."""
        self._mac.update(_packed(token_ids))
        return self._mac.copy().digest()[:RECEIPT_BYTES]

    def stamped(self, answers: Sequence[Answer], token_ids: Sequence[int]) -> list[Answer]:
        """The answers with the receipt of the tokens that one of them commits."""
        if not len(token_ids):
            return list(answers)
        receipt = self.receipt(token_ids)
        return [replace(one, receipt=receipt) if isinstance(one, Verdict) else one for one in answers]


class Receipts:
    """Checks receipts, and begins the ledgers of texts.

    Args:
        keys: the secrets as they are now, the same ones for all verifiers of a fleet.
        model: whatever names the target, the same on all of them.
        metrics: counters to keep.
        is_required: take no history without one.
    """

    def __init__(
        self,
        keys: Callable[[], Sequence[bytes]],
        model: tuple[bytes, ...],
        metrics: VerifierMetrics,
        *,
        is_required: bool,
    ) -> None:
        self._metrics = metrics
        self._keys = keys
        self._model = model
        self._is_required = is_required

    def begin(self, tenant: str, request: Open) -> Ledger:
        """The ledger of a text that goes on after what is there. History that no receipt speaks for counts as prompt.

        Raises:
            BadReceipt: the history has another receipt than it should, or none where it needs one.
        """
        num_prompt = len(request.prompt_token_ids)
        num_proved = request.receipt_length - num_prompt if request.receipt else 0
        num_unproved = len(request.committed_token_ids) - num_proved
        if self._is_required and num_unproved:
            raise BadReceipt(
                f"{num_unproved} tokens of history have no receipt",
                field="receipt",
                cure="send the last verdict's, or send them as prompt",
            )
        macs = [self._begun(key, tenant, request, num_proved) for key in self._keys()]
        if request.receipt:
            # All are looked at, whichever fits: how long it takes says nothing of the keys.
            fits = [hmac.compare_digest(mac.digest()[:RECEIPT_BYTES], request.receipt) for mac in macs]
            if not any(fits):
                raise BadReceipt(
                    "history does not match its receipt",
                    field="receipt",
                    cure="send it without, as prompt, or begin anew",
                )
        if num_unproved:
            log.info("request %r: %d tokens of history count as prompt", request.request_id, num_unproved)
            self._metrics.unproved(num_unproved)
        macs[0].update(_packed(request.committed_token_ids[num_proved:]))
        return Ledger(macs[0])

    def _begun(self, key: bytes, tenant: str, request: Open, num_proved: int) -> hmac.HMAC:
        mac = hmac.new(key, _TAG, "sha256")
        for part in (tenant.encode(), *self._model):
            mac.update(struct.pack("<I", len(part)) + part)
        mac.update(struct.pack("<I", len(request.prompt_token_ids)))
        mac.update(_packed(request.prompt_token_ids))
        mac.update(_packed(request.committed_token_ids[:num_proved]))
        return mac


def _packed(token_ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(token_ids)}I", *token_ids)
