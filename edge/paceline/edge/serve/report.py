"""What a reply says beside its text: usage, and how the text came about."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from paceline.common.tokens import Origin
from paceline.edge.request import Report
from paceline.edge.serve.generation import Text


def usage(num_prompt: int, num_written: int, *, expected: tuple[int, int] | None = None) -> dict[str, Any]:
    """Tokens read and written.

    Args:
        expected: of a prediction, the tokens that stand in the text and those that do not.
    """
    counts: dict[str, Any] = {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_written,
        "total_tokens": num_prompt + num_written,
    }
    if expected is not None:
        accepted, rejected = expected
        counts["completion_tokens_details"] = {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": rejected,
        }
    return counts


def usage_of(texts: Sequence[Text]) -> dict[str, Any]:
    """Of a whole reply; a prompt that several texts continue was read for one."""
    prompts = {id(text.request.prompt_token_ids): len(text.request.prompt_token_ids) for text in texts}
    found = [text.expected for text in texts if text.expected is not None]
    expected = (sum(one for one, _ in found), sum(other for _, other in found)) if found else None
    return usage(sum(prompts.values()), sum(text.growing.num_tokens for text in texts), expected=expected)


def speculative(reports: Sequence[Report], num_speculative_tokens: int | None) -> dict[str, Any]:
    """What drafting did for the texts, in the shape vLLM gives it."""
    rounds = [one for report in reports for one in report.rounds if one.num_drafted]
    drafted = sum(one.num_drafted for one in rounds)
    accepted = sum(one.num_accepted for one in rounds)
    by_length: dict[int, list[int]] = {}
    for one in rounds:
        counts = by_length.setdefault(one.num_drafted, [0] * (one.num_drafted + 1))
        counts[min(one.num_accepted, one.num_drafted)] += 1
    histogram = Counter(one.num_accepted for one in rounds)
    return {
        "speculative_decoding": {
            "num_spec_tokens": num_speculative_tokens,
            "num_spec_steps": len(rounds),
            "num_draft_tokens": drafted,
            "num_accepted_draft_tokens": accepted,
            "draft_acceptance_rate": accepted / drafted if drafted else 0.0,
            "mean_acceptance_length": 1 + accepted / len(rounds) if rounds else 1.0,
            "acceptance_histogram": [histogram[count] for count in range(max(histogram, default=-1) + 1)],
            "acceptance_histogram_by_draft_length": {
                str(length): counts for length, counts in sorted(by_length.items())
            },
        }
    }


def timings(reports: Sequence[Report]) -> dict[str, Any]:
    """How long it took, in the shape llama.cpp's server gives it. Of several texts: the longest times, all tokens."""
    prompt_s = max((report.ttft_s for report in reports), default=0.0)
    total_s = max((report.total_s for report in reports), default=0.0)
    num_prompt = reports[0].num_prompt_tokens if reports else 0
    num_written = sum(len(report.token_ids) for report in reports)
    written_s = max(total_s - prompt_s, 0.0)
    return {
        "prompt_n": num_prompt,
        "prompt_ms": 1000 * prompt_s,
        "prompt_per_token_ms": 1000 * prompt_s / num_prompt if num_prompt else 0.0,
        "prompt_per_second": num_prompt / prompt_s if prompt_s else 0.0,
        "predicted_n": num_written,
        "predicted_ms": 1000 * written_s,
        "predicted_per_token_ms": 1000 * written_s / num_written if num_written else 0.0,
        "predicted_per_second": num_written / written_s if written_s else 0.0,
        "draft_n": sum(report.drafted_tokens for report in reports),
        "draft_n_accepted": sum(report.accepted_tokens for report in reports),
    }


def account(reports: Sequence[Report], seed: int) -> dict[str, Any]:
    """Who wrote the texts, and whether the target has seen all of them."""
    origins = Counter(origin for report in reports for origin in report.origins)
    return {
        "mode": reports[0].mode if reports else "",
        "verified": not origins[Origin.UNVERIFIED],
        "seed": seed,
        "tokens": {str(origin): origins[origin] for origin in Origin if origins[origin]},
        "target_passes": sum(report.num_passes for report in reports),
        "reconnects": sum(report.num_reconnects for report in reports),
        "bytes_up": sum(report.traffic.bytes_up for report in reports),
        "bytes_down": sum(report.traffic.bytes_down for report in reports),
    }
