"""Chat templates: rendered as transformers renders them, and no more able to do harm."""

import json
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from paceline.common.errors import InvalidRequest
from paceline.edge.serve.chat_template import ChatTemplate, find_chat_template

MESSAGES = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "Grüße, 世界\n"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": ""},
]
CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
LLAMA = """{{- bos_token }}{% set ns = namespace(system='') %}
{% for message in messages %}
    {% if message['role'] == 'system' %}{% set ns.system = message['content'] %}{% continue %}{% endif %}
    {% if loop.index0 > 9 %}{% break %}{% endif %}
<|start|>{{ message['role'] }}<|end|>{{ ns.system }}{{ message | tojson }}
{{ message | tojson(indent=2) }}{{ eos_token }}
{% endfor %}"""
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("source", [CHATML, LLAMA], ids=["chatml", "llama"])
@pytest.mark.parametrize("more", [{}, {"enable_thinking": False}], ids=["plain", "with arguments"])
def test_templates_render_as_transformers_renders_them(source, more) -> None:
    """Trimming, loop controls, namespaces, JSON that is not HTML."""
    ((theirs,), _) = render_jinja_template(
        [MESSAGES], chat_template=source, add_generation_prompt=True, **SPECIAL, **more
    )
    assert ChatTemplate(source, SPECIAL).render(MESSAGES, **more) == theirs


def test_the_shipped_models_have_one(models) -> None:
    """Also the exported one, whose template lies one folder up."""
    for folder in ("pico", "pico/onnx", "mid", "base"):
        template = find_chat_template(models / folder)
        assert template is not None
        assert template.render(MESSAGES[:2]) == "Be <brief> & kind.\nGrüße, 世界\n"
    assert (
        find_chat_template(models / "base", "plain").render(MESSAGES[:2])
        == "Be <brief> & kind.\nGrüße, 世界\n"
    )


@pytest.mark.parametrize(
    "config",
    [
        {"chat_template": CHATML},
        {"chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": CHATML}]},
        {"chat_template": CHATML, "bos_token": {"content": "<s>"}, "eos_token": None},
    ],
    ids=["text", "named", "special tokens as objects"],
)
def test_a_tokenizer_s_own_template_is_found(tmp_path: Path, config) -> None:
    """In any form that tokenizer_config.json has it in; a file beside it wins."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert find_chat_template(tmp_path).render(MESSAGES).startswith("<|im_start|>system")
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}!")
    has_one = isinstance(config.get("bos_token"), dict)
    assert find_chat_template(tmp_path).render(MESSAGES) == ("<s>!" if has_one else "!")


def test_there_may_be_none(tmp_path: Path) -> None:
    """And a broken configuration is none."""
    assert find_chat_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text("[")
    assert find_chat_template(tmp_path) is None


@pytest.mark.parametrize("choice", ["missing.jinja", "broken.jinja"])
def test_a_file_that_is_no_template_is_refused(tmp_path: Path, choice: str) -> None:
    """Naming what to do."""
    (tmp_path / "broken.jinja").write_text("{% if %}")
    with pytest.raises(InvalidRequest) as refused:
        find_chat_template(tmp_path, str(tmp_path / choice))
    assert refused.value.field == "chat_template"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('Roles must alternate.') }}",
        "{{ ().__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace(a=1) %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__init__=1) }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{{ 'x' * 10 ** 12 }}",
    ],
)
def test_a_template_can_refuse_and_cannot_do_harm(source: str) -> None:
    """Whatever it tries, a caller hears that the messages were refused; no exception's text but the template's own."""
    with pytest.raises(InvalidRequest) as refused:
        ChatTemplate(source).render(MESSAGES)
    assert refused.value.field == "messages"
