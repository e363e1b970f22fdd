"""What an operator can set, in one frozen value per concern."""

from dataclasses import dataclass

from paceline.common.tokens import Rule


@dataclass(frozen=True, slots=True)
class VerifierConfig:
    """How sessions are admitted and batched."""

    max_sessions: int = 64
    """Sessions at a time; one more is refused with RESOURCE_EXHAUSTED."""
    max_draft_tokens: int = 64
    """Longest draft block, tokens."""
    max_judged_tokens: int = 256
    """Drafted tokens of one session in one step, over all its blocks."""
    max_blocks_in_flight: int = 16
    """Unsettled blocks per session."""
    max_step_tokens: int = 1024
    """Tokens in one engine step, over all sessions."""
    prefill_chunk_tokens: int = 256
    """Prompt tokens in one engine step, so that a long prompt delays nobody by more than one chunk."""
    max_unread_replies: int = 64
    """Replies a client may leave unread before its session stops filling; others are not affected."""
    hop_name: str = ""
    """What reports and counters call this hop."""
    rules: frozenset[Rule] = frozenset(Rule)
    """Rules this verifier applies. Under `rejection` the law a client *claims* decides; drop it for strangers."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where to listen and how to stop."""

    listen: str = "127.0.0.1:7443"
    """HOST:PORT; port 0 takes a free one."""
    metrics_port: int | None = None
    """Port of the Prometheus endpoint on loopback; None for none."""
    drain_s: float = 10.0
    """How long SIGTERM waits for live generations."""
