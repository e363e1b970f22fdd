"""Engine tests run torch on one thread, as every process of the project does."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    """Two threads on a busy machine are ten times slower than one."""
    torch.set_num_threads(1)
