"""The guide to adding a drafter works as printed."""

import re
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "add-a-drafter.md"


def test_guide_runs_as_printed() -> None:
    """The Python in the guide, pasted together, defines a drafter that passes the kit."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    namespace: dict[str, object] = {}
    exec("\n".join(blocks), namespace)  # noqa: S102 - our own documentation
    assert "BigramRunner" in namespace
