"""The first command of a newcomer."""

import json
import subprocess
import sys


def test_the_demo_reports_the_whole_contract() -> None:
    """`paceline demo --json` prints one object with every promised key; both ways give one text."""
    command = [sys.executable, "-m", "paceline.cli.main", "demo", "--json", "--max-new-tokens", "32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["same_text"] is True
    assert result["verified"] is True
    assert result["mode"] == "auto"
    assert result["usage"]["completion_tokens"] == len(result["token_ids"]) <= 32
    assert result["baseline"]["tokens_per_s"] > 0
    assert result["speedup"] > 0
    assert result["speculation"].keys() == {
        "rounds",
        "drafted_tokens",
        "accepted_tokens",
        "acceptance_rate",
        "mean_acceptance_length",
        "target_passes",
        "bytes_up",
        "bytes_down",
    }
    assert result["timing"].keys() == {
        "ttft_s",
        "total_s",
        "tokens_per_s",
        "draft_s",
        "verify_s",
        "network_s",
    }
