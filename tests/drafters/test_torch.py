"""The torch drafter computes what a plain forward computes, and asks for its packages by name."""

import sys
from pathlib import Path

import numpy as np
import pytest

from paceline.common.errors import InvalidRequest, MissingDependency
from paceline.edge.drafters.torch import TorchDrafter, TorchRunner

TEXT = [5, 9, 200, 31, 7, 7, 90, 12, 44, 3]


@pytest.mark.usefixtures("one_torch_thread")
def test_rollback_to_every_length_equals_plain_forward(model_dir: Path) -> None:
    """Whatever was cached beyond, logits after a cut are those of a forward without any cache."""
    import torch

    drafter = TorchDrafter(model_dir)
    runner = TorchRunner(drafter.model, 1024)
    with torch.inference_mode():
        expected = drafter.model(torch.tensor([TEXT])).logits[0].numpy()
    for index, token_id in enumerate(TEXT):
        np.testing.assert_allclose(runner.forward(index, [token_id]), expected[index], atol=1e-4)
    for cut in range(len(TEXT) - 1, 0, -1):
        for end in (cut + 1, len(TEXT)):
            np.testing.assert_allclose(runner.forward(cut, TEXT[cut:end]), expected[end - 1], atol=1e-4)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """A folder that holds no config.json is refused by name."""
    with pytest.raises(InvalidRequest, match=r"holds no config\.json"):
        TorchDrafter(tmp_path)


def test_missing_torch_names_the_line_to_run(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch the error says what to install."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependency, match=r"pip install 'paceline\[cloud\]'"):
        TorchDrafter(model_dir)
