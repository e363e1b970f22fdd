"""The playground in a real browser: what it shows is the target's text, and anybody can work it."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

pytestmark = pytest.mark.slow  # playwright switches stacks, which other tests of the process need not bear

PROMPT = "def fib(n):"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that is installed here."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as player:
        started = player.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that notices what goes wrong in it, and whom it asks."""
    one = browser.new_page(viewport={"width": 1200, "height": 850})
    one.set_default_timeout(15_000)
    one.wrong, one.asked = [], []
    one.on("pageerror", lambda error: one.wrong.append(str(error)))
    one.on("request", lambda request: one.asked.append(request.url))
    yield one
    one.close()


def ask(page: Any, url: str, **settings: str) -> None:
    """Open the page, set what is to be set, and have a text written from the keyboard."""
    page.goto(url.removesuffix("v1"))
    page.wait_for_selector("#mode option", state="attached")
    page.click("summary")
    if page.locator("#as").is_visible():
        page.select_option("#as", "text")
    for name, value in settings.items():
        page.fill(f"#{name}", value)
    page.fill("#prompt", PROMPT)
    page.press("#prompt", "Control+Enter")


def wait_until_written(page: Any) -> None:
    """Until the text is complete."""
    page.wait_for_selector("#send:not([disabled])")


def test_the_text_is_the_targets_and_can_be_replayed(page: Any, serve: Any) -> None:
    """Coloured tokens make up the target's own text; each verdict can be looked at again, by keyboard."""
    with serve(step_s=0.005) as running:
        ask(page, running.url, max_tokens="40", temperature="0")
        wait_until_written(page)
        assert page.text_content("pre.answer") == running.alone(PROMPT, 40)
        origins = page.eval_on_selector_all("pre.answer .t", "all => all.map(one => one.className)")
        assert {"accepted", "recovered"} <= {name for one in origins for name in one.split()}
        num_verdicts = page.locator("#rounds tr").count()
        assert page.text_content("#round-of") == f"{num_verdicts} of {num_verdicts}"
        page.focus("#round")
        for _ in range(2):
            page.press("#round", "ArrowLeft")
        assert page.text_content("#round-of") == f"{num_verdicts - 2} of {num_verdicts}"
        committed = page.eval_on_selector_all(
            "pre.answer .t:not(.provisional)", "all => all.map(one => one.textContent).join('')"
        )
        assert running.alone(PROMPT, 40).startswith(committed)
        assert len(committed) < len(running.alone(PROMPT, 40))
        assert page.wrong == []
        assert all(one.startswith((running.url.removesuffix("v1"), "data:")) for one in page.asked)


def test_escape_ends_a_text_everywhere(page: Any, serve: Any) -> None:
    """Whoever has seen enough stops it, and the verifier is free again."""
    with serve(step_s=0.02) as running:
        ask(page, running.url, max_tokens="1500")
        page.wait_for_selector("pre.answer .t")
        page.keyboard.press("Escape")
        wait_until_written(page)
        assert "Stopped." in page.text_content("#log")
        running.settled()


def test_what_goes_wrong_is_said(page: Any, serve: Any) -> None:
    """A verifier that refuses is an alert in words; the page goes on."""
    with serve(step_s=0.005) as running:
        ask(page, running.url, max_tokens="4000000")
        wait_until_written(page)
        assert "context" in page.text_content("#alert")
        page.fill("#max_tokens", "5")
        page.press("#prompt", "Control+Enter")
        page.wait_for_selector("article:nth-of-type(4)")
        wait_until_written(page)
        assert page.text_content("#alert") == ""


def test_a_key_is_asked_for_once(page: Any, serve: Any) -> None:
    """Where the endpoint wants an API key the page asks for it, and works then."""
    with serve(api_key="a key of thirty-two characters..") as running:
        page.goto(running.url.removesuffix("v1"))
        page.wait_for_selector("#unlock:not([hidden])")
        page.fill("#key", "a key of thirty-two characters..")
        page.press("#key", "Enter")
        page.wait_for_selector("#mode option", state="attached")
        assert not page.locator("#unlock").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_can_be_read_and_worked_by_anybody(page: Any, serve: Any, theme: str) -> None:
    """axe finds nothing to complain of, in either theme, before and after a text; a phone does not scroll sideways."""
    with serve() as running:
        ask(page, running.url, max_tokens="20")
        wait_until_written(page)
        page.select_option("#theme", theme)
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.set_viewport_size({"width": 360, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
