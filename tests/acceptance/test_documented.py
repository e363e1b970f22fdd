"""The how-to page is executed."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "add-an-acceptance-rule.md"


def test_the_page_on_adding_a_rule_does_what_it_says() -> None:
    """Every example on the page runs and prints what is printed there."""
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.attempted >= 10
    assert results.failed == 0
