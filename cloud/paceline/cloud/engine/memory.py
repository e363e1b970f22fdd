"""How many cached tokens fit into the memory that is free."""

import os
from pathlib import Path

import torch

from paceline.common.errors import Incompatible

MAX_TOKENS = 4_000_000
"""Ceiling of the automatic capacity; the books are plain Python."""


def free_bytes(device: torch.device) -> int:
    """Memory free on `device` now; on a CPU, within the control group's limit where there is one."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available_bytes(Path("/proc/meminfo")), _group_bytes(Path("/sys/fs/cgroup")))


def fitting_tokens(bytes_per_token: int, device: torch.device, fraction: float) -> int:
    """Tokens whose keys and values fit into `fraction` of the free memory, at most `MAX_TOKENS`.

    Raises:
        Incompatible: not even 256 tokens fit.
    """
    tokens = int(free_bytes(device) * fraction) // bytes_per_token
    if tokens < 256:
        raise Incompatible(
            f"{device} has room for {tokens} cached tokens of {bytes_per_token} bytes",
            cure="use a smaller model or a device with more memory",
        )
    return min(tokens, MAX_TOKENS)


def _available_bytes(meminfo: Path) -> int:
    """Linux's estimate of what can be taken without swapping; elsewhere half of the physical memory."""
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _group_bytes(group: Path) -> int:
    """What the control group (a container's limit) leaves, or a very large number without one."""
    limit, used = group / "memory.max", group / "memory.current"
    if not limit.exists() or limit.read_text().strip() == "max":
        return 2**62
    return max(0, int(limit.read_text()) - int(used.read_text()))
