"""From messages to a prompt, by the template that the tokenizer's own folder brings.

A template is somebody's program. It runs as transformers runs it: in Jinja's immutable sandbox, with the same few
extras, and without what a template could reach the interpreter by. `tests/serve` compares the two.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from paceline.common.errors import InvalidRequest

PLAIN = "plain"
"""Name of a template for models that know no roles: the messages' texts, one after another."""
_PLAIN_TEMPLATE = "{{ messages | map(attribute='content') | join('\\n') }}"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTemplate:
    """Renders messages.

    Args:
        source: the template's text.
        special_tokens: names a template may use, such as `bos_token`.
    Raises:
        InvalidRequest: it is not a Jinja template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        try:
            self._template = _environment().from_string(source)
        except TemplateSyntaxError as error:
            raise InvalidRequest(
                f"line {error.lineno}: {error.message}", field="chat_template", cure="mend the template"
            ) from None
        self._special_tokens = dict(special_tokens or {})

    def render(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> str:
        """The prompt; the next turn is the assistant's.

        Raises:
            InvalidRequest: the template refuses these messages, or fails.
        """
        try:
            return self._template.render(
                messages=[dict(one) for one in messages],
                add_generation_prompt=True,
                **(self._special_tokens | more),
            )
        except TemplateError as error:
            why = error.message or type(error).__name__
        except Exception as error:  # a template may divide by zero, or add a word to a number
            why = type(error).__name__
        raise InvalidRequest(f"the model's chat template refuses them: {why[:200]}", field="messages")


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "namespace": _Namespace,
    }
    for name in ("dict", "lipsum", "cycler", "joiner"):
        environment.globals.pop(name, None)
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


class _Namespace(Namespace):
    """Takes no name by which Python keeps its own."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *rest = args
        given = dict(*rest, **values)
        if any(str(name).startswith("_") for name in given):
            raise TemplateError("a namespace has no names that begin with an underscore")
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise TemplateError("a namespace has no names that begin with an underscore")
        Namespace.__setitem__(self, name, value)


def find_chat_template(tokenizer_dir: Path, choice: str | None = None) -> ChatTemplate | None:
    """The template to use; None if the model has none.

    Args:
        tokenizer_dir: where the tokenizer is; an exported model's template may lie one folder up.
        choice: a file, or "plain"; None takes what the tokenizer has.
    Raises:
        InvalidRequest: a file cannot be read, or is no template.
    """
    folders = (tokenizer_dir, tokenizer_dir.parent)
    configs = [_config(folder / "tokenizer_config.json") for folder in folders]
    special = {name: text for config in reversed(configs) for name, text in _special_tokens(config).items()}
    if choice == PLAIN:
        return ChatTemplate(_PLAIN_TEMPLATE)
    if choice is not None:
        return ChatTemplate(_read(Path(choice)), special)
    for folder, config in zip(folders, configs, strict=True):
        if (file := folder / "chat_template.jinja").is_file():
            return ChatTemplate(_read(file), special)
        if (source := _default(config.get("chat_template"))) is not None:
            return ChatTemplate(source, special)
    return None


def _default(found: Any) -> str | None:
    """Of several named templates the default one."""
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    found = {name: config.get(name) for name in _SPECIAL}
    texts = {name: one.get("content") if isinstance(one, dict) else one for name, one in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InvalidRequest(
            f"{file} cannot be read as UTF-8 text", field="chat_template", cure="check the path, or say plain"
        ) from None
