"""The shape of a tree draft: for each node the index of its parent, -1 for a child of the prefix.

A chain is the tree -1, 0, 1, …. Parents precede their children, so every leading part of a tree is a tree; and the
first path from the prefix to a leaf, the *principal chain*, comes first, so whoever wants a chain cuts the rest off.
Siblings are ordered by their index.
"""

from collections.abc import Sequence

ROOT = -1
"""Parent of the nodes that continue the prefix itself."""


def chain(length: int) -> tuple[int, ...]:
    """The parents of a chain."""
    return tuple(range(-1, length - 1))


def principal_length(parents: Sequence[int]) -> int:
    """Nodes of the principal chain."""
    return next((node for node, parent in enumerate(parents) if parent != node - 1), len(parents))


def path_to(parents: Sequence[int], node: int) -> tuple[int, ...]:
    """The nodes from the prefix to `node`, itself included; none for `ROOT`."""
    path = []
    while node != ROOT:
        path.append(node)
        node = parents[node]
    return tuple(reversed(path))


def depths(parents: Sequence[int]) -> list[int]:
    """Each node's distance from the prefix, less one: what it adds to the position of the first node."""
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent == ROOT else found[parent] + 1)
    return found


def siblings(parents: Sequence[int]) -> dict[int, list[int]]:
    """Every node that has children, `ROOT` among them, with its children in order."""
    groups: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        groups.setdefault(parent, []).append(node)
    return groups


def problem(parents: Sequence[int], num_tokens: int) -> str:
    """What is wrong with the parents of a block of so many tokens; "" if nothing is."""
    if len(parents) != num_tokens:
        return f"{num_tokens} tokens came with {len(parents)} parents"
    for node, parent in enumerate(parents):
        if not ROOT <= parent < node:
            return f"the parent of token {node} is {parent}, not -1 or the index of a token before it"
    last = principal_length(parents) - 1
    late = next((node for node in range(last + 1, num_tokens) if parents[node] == last), None)
    if late is not None:
        return f"token {late} continues the first path, which ended with token {last}"
    return ""
