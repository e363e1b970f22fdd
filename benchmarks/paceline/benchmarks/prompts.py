"""The texts that are continued."""

import json
from collections.abc import Sequence
from pathlib import Path

from paceline.common.errors import InvalidRequest
from paceline.common.tokenizer import Tokenizer

BUILT_IN = (
    'class Stack:\n    """A last-in, first-out collection of items."""\n\n    def __init__(self, items=None):\n',
    "import os\nimport sys\n\n\ndef main(argv=None):\n    if argv is None:\n        argv = sys.argv\n",
    "def read_lines(path):\n    with open(path, encoding='utf-8') as file:\n        for line in file:\n",
    "class Node:\n    def __init__(self, value, left=None, right=None):\n        self.value = value\n",
    "    def __len__(self):\n        return len(self._items)\n\n    def __iter__(self):\n",
    "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a\n\n\ndef lcm(a, b):\n",
    "try:\n    import json\nexcept ImportError:\n    json = None\n\n\ndef load(path):\n",
    "for name in sorted(os.listdir(path)):\n    full = os.path.join(path, name)\n    if os.path.isdir(full):\n",
)


def load_prompts(file: Path | None, limit: int) -> list[str]:
    """At most `limit` prompts, evenly spaced over a JSON-lines file with the key `prompt`, hence over its sources.

    Args:
        file: None, or a file that is not there, gives the built-in prompts.
        limit: at least 1.
    Raises:
        InvalidRequest: a line is not of that form, or there are none.
    """
    texts = list(BUILT_IN) if file is None or not file.is_file() else _read(file)
    if not texts:
        raise InvalidRequest(f"{file} has no lines", field="prompts", cure='one {"prompt": …} per line')
    count = min(limit, len(texts))
    return [texts[index * len(texts) // count] for index in range(count)]


def _read(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return [str(json.loads(line)["prompt"]) for line in lines if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"{file}: {type(error).__name__}: {error}", field="prompts", cure='one {"prompt": …} per line'
        ) from None


def prompts_of_length(
    texts: Sequence[str], tokenizer: Tokenizer, num_tokens: int, count: int
) -> list[tuple[int, ...]]:
    """`count` prompts of exactly `num_tokens` tokens: each begins with another text and goes on with the next ones."""
    encoded = [tokenizer.encode(text) for text in texts]
    prompts = []
    for first in range(count):
        token_ids: tuple[int, ...] = ()
        following = first
        while len(token_ids) < num_tokens:
            token_ids += encoded[following % len(encoded)]
            following += 1
        prompts.append(token_ids[:num_tokens])
    return prompts
