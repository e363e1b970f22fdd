"""The documentation site: every page is in it, every link leads somewhere, references are the code's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a tree, strictly."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=source,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    built = tmp_path_factory.mktemp("site")
    done = build(root, built)
    assert done.returncode == 0, done.stderr
    return built


def test_references_are_made_from_the_code(site: Path) -> None:
    """Commands, messages and classes appear with what the code says of them."""
    assert "paceline topology plan" in (site / "reference/cli.html").read_text()
    assert "committed_token_ids" in (site / "reference/messages.html").read_text()
    assert "num_speculative_tokens" in (site / "reference/python.html").read_text()


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    """Fonts, scripts and pictures are the site's own: reading it tells nobody."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        for attribute in ('src="http', "src='http", 'rel="stylesheet" href="http', 'rel="preconnect"'):
            assert attribute not in text, f"{page.name}: {attribute}"


@pytest.mark.slow
def test_a_dead_link_is_noticed(root: Path, tmp_path: Path) -> None:
    """The build is strict: a link to a page that is not there fails it."""
    tree = tmp_path / "tree"
    skipped = shutil.ignore_patterns(".venv", ".git", "site", "models", "__pycache__")
    shutil.copytree(root, tree, ignore=skipped)
    page = tree / "docs" / "glossary.md"
    page.write_text(page.read_text() + "\n[nowhere](no-such-page.md)\n")
    done = build(tree, tmp_path / "site")
    assert done.returncode != 0
    assert "no-such-page.md" in done.stderr
