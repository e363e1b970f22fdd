"""How likely a token is to a model: the log-softmax of its logits as they are, before any sampling parameter."""

import numpy as np
from numpy.typing import NDArray

from paceline.common.sampling.law import checked_argmax, largest
from paceline.common.tokens import TokenLogprobs


def token_logprobs(logits: NDArray[np.float32], token_id: int, num_top: int) -> TokenLogprobs:
    """Of one token and of the `num_top` likeliest; ties go to the lowest id.

    Args:
        logits: the model's raw row, float32 [vocab].
    Raises:
        TargetNumerics: the row holds NaN or +inf, or nothing but -inf.
    """
    row = logits.astype(np.float64)
    row -= row[checked_argmax(logits)]
    row -= np.log(np.exp(row).sum())
    top = largest(logits, min(num_top, len(row))) if num_top else ()
    return TokenLogprobs(
        float(row[token_id]),
        tuple((int(one), float(row[one])) for one in sorted(top, key=lambda one: (-row[one], one))),
    )
