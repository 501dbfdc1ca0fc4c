"""What the pages quote from the code is in the code."""

import re
from pathlib import Path

import pytest

from bridge.languages import LANGUAGES, translations
from bridge.texts import TEXTS

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "planfix-bridge-acme"


@pytest.mark.parametrize("language", ["python", "toml"])
def test_the_page_for_authors_quotes_the_example_as_it_is(language: str) -> None:
    page = (ROOT / "docs" / "adding-a-provider.md").read_text()
    sources = [file.read_text() for file in sorted(EXAMPLE.rglob("*")) if file.suffix in (".py", ".toml")]
    quoted = re.findall(rf"^```{language}\n(.*?)\n```$", page, re.DOTALL | re.MULTILINE)
    assert quoted
    assert [text for text in quoted if not any(text in source for source in sources)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_troubleshooting_knows_every_text_that_planfix_may_show(language: str) -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    say = translations(language).gettext
    shown = {code: re.sub(r"%\(\w+\)s", "…", say(text)) for code, text in TEXTS.items()}
    assert [code for code, told in shown.items() if told not in page] == []


def test_every_provider_has_its_page_on_the_site() -> None:
    pages = {f"providers/{page.name}" for page in (ROOT / "docs" / "providers").glob("*.md")}
    assert pages == set(re.findall(r"providers/\w+\.md", (ROOT / "mkdocs.yml").read_text()))
