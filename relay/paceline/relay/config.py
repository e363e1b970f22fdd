"""What an operator can set."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """How a relay works with the hop above."""

    mode: str = "auto"
    """How drafts go up; see `paceline.edge.modes`. `auto` sends none where they do not pay."""
    reconnect_s: float = 30.0
    """How long a text waits for a hop above that went away, seconds."""
