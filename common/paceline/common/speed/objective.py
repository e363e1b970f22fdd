"""What is to be maximised: speed, thrift, or a weighting of both."""

from dataclasses import dataclass

from paceline.common.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Objective:
    """Tokens per second to the power ``1 - weight`` times tokens per target pass to the power `weight`."""

    weight: float = 0.0
    """0 is latency, 1 is throughput."""

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """`latency`, `throughput`, or a number between 0 and 1.

        Raises:
            InvalidRequest: it is none of them.
        """
        named = {"latency": 0.0, "throughput": 1.0}
        try:
            weight = named[text] if text in named else float(text)
        except ValueError:
            weight = -1.0
        if not 0 <= weight <= 1:
            raise InvalidRequest(
                f"there is no objective {text!r}",
                field="objective",
                cure="latency, throughput, or a weight from 0 to 1",
            )
        return cls(weight)

    def score(self, tokens_per_s: float, passes_per_token: float) -> float:
        """Comparable between ways of generating the same text; larger is better."""
        thrift = 1 / passes_per_token if passes_per_token else 1.0
        return float(tokens_per_s ** (1 - self.weight) * thrift**self.weight)


LATENCY = Objective()
