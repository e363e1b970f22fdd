"""`${NAME}` and `${NAME:-default}` in the texts of a document, and the care that what they stand for is never shown.

References are replaced after the YAML is parsed, in values that are text and nowhere else: what a variable holds can
neither add a key nor become a number. `$${` stands for a plain `${`.
"""

import re
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from json import dumps
from typing import Any, NamedTuple

from paceline.common.config.errors import Path

_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{[^}]*\}?")
_SHORT = 4
"""Values of fewer characters occur inside other words; they are hidden where they stand alone."""
_FRAGMENT = 8
"""A part of a value of so many characters is hidden as well."""

Fail = Callable[[Path, str, str], Exception]
"""Makes the error about a path, from message and cure."""


class Secret(NamedTuple):
    """What the environment put into a document."""

    value: str
    reference: str
    """As it may be shown: `${NAME}`."""


class Substituted(NamedTuple):
    """A document's value with every reference replaced."""

    value: dict[str, Any]
    written: Mapping[Path, str]
    """Texts that took something from the environment, as they stand in the file."""
    secrets: tuple[Secret, ...]


def substitute(value: dict[str, Any], environment: Mapping[str, str], fail: Fail) -> Substituted:
    """Replace the references in every text.

    Args:
        value: plain data, as parsed.
        environment: what names stand for.
        fail: makes the error to raise about a reference that is malformed, or whose variable is not set.
    """
    written: dict[Path, str] = {}
    secrets: set[Secret] = set()

    def replaced(text: str, path: Path) -> str:
        def stand_in(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            found = _look_up(match, environment, lambda message, cure: fail(path, message, cure))
            if isinstance(found, Secret):
                secrets.add(found)
                written[path] = text
                return found.value
            return found

        return _REFERENCE.sub(stand_in, text)

    def walk(item: Any, path: Path) -> Any:
        if isinstance(item, str):
            return replaced(item, path)
        if isinstance(item, dict):
            return {key: walk(one, (*path, key)) for key, one in item.items()}
        if isinstance(item, list):
            return [walk(one, (*path, index)) for index, one in enumerate(item)]
        return item

    return Substituted(walk(value, ()), written, tuple(sorted(secrets, key=lambda one: -len(one.value))))


def _look_up(
    match: re.Match[str], environment: Mapping[str, str], fail: Callable[[str, str], Exception]
) -> Secret | str:
    """What a reference stands for: a variable's value, or the default in the file."""
    name, default = match[1], match[2]
    if name is None:
        raise fail(f"{match[0]!r:.60} is no reference", "${NAME} or ${NAME:-default}; $${ for a plain ${")
    held = environment.get(name)
    if default is not None and not held:
        return str(default)
    if held is None:
        raise fail(f"the environment variable {name} is not set", f"set it, or write ${{{name}:-default}}")
    if not held.isprintable():
        raise fail(f"the environment variable {name} holds a broken character", "set it anew")
    return Secret(held, f"${{{name}}}")


def redact(text: str, secrets: tuple[Secret, ...], *, parts: bool = True) -> str:
    """The text with references in place of what they stand for.

    Args:
        text: a message.
        secrets: what it must not show.
        parts: hide parts of values as well. Messages about a file need it: they cut long values short and quote parts.
    """
    for value, reference in secrets:
        for form in dict.fromkeys((value, repr(value)[1:-1], dumps(value)[1:-1])):
            text = _without(text, form, reference, parts=parts)
    return text


def _without(text: str, value: str, reference: str, *, parts: bool) -> str:
    if len(value) < _SHORT:
        return re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", reference, text) if value else text
    text = text.replace(value, reference)
    return _without_parts(text, value, reference) if parts else text


def _without_parts(text: str, value: str, reference: str) -> str:
    match = SequenceMatcher(None, text, value, autojunk=False).find_longest_match()
    if match.size < min(len(value), _FRAGMENT):
        return text
    before, after = text[: match.a], text[match.a + match.size :]
    return f"{_without_parts(before, value, reference)}{reference}{_without_parts(after, value, reference)}"
