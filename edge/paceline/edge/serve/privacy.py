"""What leaves the device, said by the endpoint itself."""

from html import escape
from typing import Any

from paceline.edge.serve.config import ServeConfig

SENT_ONCE = {
    "prompt_token_ids": "the prompt as token ids; whoever has the tokenizer reads it as text",
    "committed_token_ids": "where a link broke: the text so far, as token ids",
    "seed": "the seed of the text's randomness",
    "sampling": "temperature, top_p, top_k, min_p, penalties, logit biases",
    "rule": "how drafts are to be judged",
    "fill": "whether the verifier may write on while no draft is there",
    "max_fill_passes": "how far",
    "max_new_tokens": "the longest text",
    "stop_token_ids": "ids that end the text",
    "ignore_eos": "whether the model's own end of text counts",
    "logprobs": "whether probabilities are wanted, and how many",
    "protocol_version": "the version of the protocol",
    "features": "what this side can do",
    "tokenizer_fingerprint": "a hash of the vocabulary",
    "path": "names of relays the request came through",
    "request_id": "the id in X-Request-ID, for the verifier's log",
    "deadline_ms": "the time left",
    "session_id": "a random name of this text, for the verifier to find its cache again",
    "attempt": "how often this text was asked for, links having broken",
    "receipt": "the verifier's own proof of the text so far",
    "receipt_length": "how much of the text that is for",
    "pad_to": "the size every message is to have",
}
"""Fields of the message that opens a text."""
SENT_OFTEN = {
    "base": "how long the text is that a draft continues",
    "prefix_hash": "a hash of it",
    "token_ids": "drafted tokens, a prediction's among them",
    "draft_probs_percent": "how sure the draft model was of each",
    "how": "how they were chosen",
    "law_sizes": "under rejection sampling: the draft model's probabilities",
    "law_token_ids": "the same",
    "law_weights": "the same",
    "parents_plus_one": "which drafted token follows which",
    "more_follows": "whether the draft goes on",
}
"""Fields of every draft."""
STAYS = {
    "messages": "roles and text are made into token ids here",
    "stop": "stop strings are looked for here",
    "prediction": "only what of it is drafted is sent, as drafts",
    "user, metadata, safety_identifier, prompt_cache_key": "read by nobody, kept nowhere",
    "API keys and other headers": "checked here; X-Request-ID goes on, and a hash of it that load balancers read; with "
    "tracing switched on, the trace's id",
}
"""What is not sent."""


def privacy(config: ServeConfig, verifier: str) -> dict[str, Any]:
    """What leaves the device, to whom, and what does not.

    Args:
        verifier: where the verifier is, in words.
    """
    if config.is_local_only:
        return {
            "local_only": True,
            "leaves_the_device": [],
            "stays": ["everything: the draft model writes alone, and no connection is made"],
            "seen_besides": [],
        }
    return {
        "local_only": False,
        "to": verifier,
        "leaves_the_device": [
            {"message": message, "field": field, "what": what}
            for message, fields in (("open", SENT_ONCE), ("draft", SENT_OFTEN))
            for field, what in fields.items()
        ],
        "stays": [f"{name}: {what}" for name, what in STAYS.items()],
        "seen_besides": [
            "a certificate and a token, if --tls-cert and --token-file name them",
            "to whoever carries the packets: addresses, sizes and times, with TLS as well; without TLS everything",
        ],
    }


def privacy_page(told: dict[str, Any]) -> str:
    """The same for people."""
    rows = "".join(
        f"<tr><td>{escape(one['message'])}.{escape(one['field'])}</td><td>{escape(one['what'])}</td></tr>"
        for one in told["leaves_the_device"]
    )
    where = f"To {escape(str(told.get('to', '')))}:" if rows else "Nothing."
    stays = "".join(f"<li>{escape(one)}</li>" for one in told["stays"])
    seen = "".join(f"<li>{escape(one)}</li>" for one in told["seen_besides"])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>What leaves this device</title>'
        f"<h1>What leaves this device</h1><p>{where}</p><table>{rows}</table>"
        f"<h2>What stays</h2><ul>{stays}</ul>" + (f"<h2>Seen besides</h2><ul>{seen}</ul>" if seen else "")
    )
