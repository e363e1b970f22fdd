"""Every command explains itself."""

import re

import pytest

COMMANDS = (
    (),
    ("demo",),
    ("doctor",),
    ("bench",),
    ("cloud",),
    ("cloud", "serve"),
    ("cloud", "relay"),
    ("edge",),
    ("edge", "generate"),
    ("edge", "chat"),
    ("edge", "serve"),
    ("models",),
    ("topology",),
    ("topology", "check"),
    ("topology", "graph"),
    ("topology", "plan"),
    ("topology", "up"),
    ("certs",),
    ("certs", "dev"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(inline, command) -> None:
    """`--help` says what the command is for, on stdout, with exit code 0."""
    outcome = inline(*command, "--help")
    assert outcome.code == 0
    assert outcome.err == ""
    assert "Usage: paceline" in outcome.out


@pytest.mark.parametrize(
    ("command", "setting", "default"),
    [
        (("edge", "generate"), "VERIFIER", "127.0.0.1:7443"),
        (("edge", "generate"), "MAX_NEW_TOKENS", "128"),
        (("edge", "generate"), "TEMPERATURE", "0.0"),
        (("edge", "generate"), "RULE", "auto"),
        (("edge", "chat"), "MODE", "auto"),
        (("cloud", "serve"), "LISTEN", "127.0.0.1:7443"),
        (("cloud", "serve"), "MAX_SESSIONS", "64"),
        (("demo",), "MAX_NEW_TOKENS", "256"),
    ],
)
def test_help_shows_defaults_and_environment_variables(
    inline, monkeypatch, command, setting, default
) -> None:
    """An option that can be set in the environment says so, beside its default."""
    monkeypatch.setenv("COLUMNS", "200")
    text = " ".join(inline(*command, "--help").out.split())
    variable = text.index(f"[env var: PACELINE_{setting}]")
    assert f"[default: {default}]" in text[variable : variable + 120]


def test_a_bare_command_group_shows_its_help(inline) -> None:
    """`paceline` and `paceline edge` alone print the commands there are, and exit 2."""
    for command in ((), ("edge",), ("cloud",)):
        outcome = inline(*command)
        assert outcome.code == 2
        assert "Commands" in outcome.out + outcome.err


def test_the_version_is_printed(inline) -> None:
    """`--version` is one line on stdout."""
    outcome = inline("--version")
    assert outcome.code == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", outcome.out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope",), ("No such command 'nope'", "paceline --help")),
        (("edge", "generat"), ("generat", "'generate'", "paceline edge --help")),
        (("edge", "generate", "--nope"), ("--nope", "paceline edge generate --help")),
        (("edge", "generate", "--temprature", "1"), ("--temprature", "--temperature")),
        (("edge", "generate", "--top-k", "x"), ("--top-k", "PACELINE_TOP_K", "integer")),
        (("edge", "generate", "--concurrency", "0"), ("--concurrency", "1")),
        (("cloud", "serve"), ("--model", "PACELINE_MODEL", "paceline cloud serve --help")),
        (("--log-level", "loud", "doctor"), ("--log-level", "'loud'", "debug, info, warning or error")),
    ],
)
def test_a_mistyped_command_line_is_one_line(inline, arguments, words) -> None:
    """It names the option and where to look."""
    inline(*arguments).complains(*words)


def test_options_can_come_from_the_environment(inline, monkeypatch, pico) -> None:
    """PACELINE_… variables stand in for options."""
    monkeypatch.setenv("PACELINE_DRAFT_MODEL", str(pico))
    monkeypatch.setenv("PACELINE_MODE", "local")
    monkeypatch.setenv("PACELINE_MAX_NEW_TOKENS", "3")
    outcome = inline("edge", "generate", "--prompt", "def ", "--json")
    assert '"completion_tokens": 3' in outcome.out
