"""The figures every formula starts from."""

from dataclasses import dataclass

from paceline.common.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds, and the chance that a drafted token stands."""

    draft_s: float
    """Per drafted token on the device."""
    verify_fixed_s: float
    """Per target pass, whatever it checks."""
    verify_per_token_s: float
    """Per token in a target pass."""
    round_trip_s: float
    """From the device to the verifier and back."""
    acceptance: float
    """Per token, independent of the others; 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("draft_s", "verify_fixed_s", "verify_per_token_s", "round_trip_s"):
            value = getattr(self, name)
            if not 0 <= value < 3600:
                raise InvalidRequest(f"{value} is not a time", field=name, cure="seconds, 0 or more")
        if not 0 <= self.acceptance <= 1:
            raise InvalidRequest(f"{self.acceptance} is no share", field="acceptance", cure="0 to 1")
        if self.decode_s <= 0:
            raise InvalidRequest("a target pass takes no time", field="verify_fixed_s", cure="above 0")

    @property
    def decode_s(self) -> float:
        """A target pass over one token: what cloud streaming spends per token."""
        return self.verify_fixed_s + self.verify_per_token_s

    def verify_s(self, num_drafted: float) -> float:
        """A target pass over a draft: its tokens, and the committed one before them."""
        return self.verify_fixed_s + self.verify_per_token_s * (num_drafted + 1)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a way of generating gives."""

    tokens_per_s: float
    passes_per_token: float
    """Target passes per committed token."""
