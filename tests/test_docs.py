"""What the pages quote from the code is in the code, and the tests that they name are there."""

import re
from pathlib import Path

import pytest

from bridge.languages import LANGUAGES, translations
from bridge.texts import TEXTS

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "planfix-bridge-acme"
DOCUMENTS = ("docs/architecture.md", "docs/security.md")
TESTS = [
    *(path for path in (ROOT / "tests").rglob("*.py")),
    *(path for path in (ROOT / "providers" / "testing").glob("*.py")),
]
NAMED = re.compile(r"`(?:(?:[\w/]*?)(?P<file>\w+)(?:\.py)?(?:::|\.))?(?P<test>test_\w+)`")


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


def defined_in(path: Path) -> set[str]:
    return set(re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_the_documents_name_is_there(document: str) -> None:
    by_file: dict[str, set[str]] = {}
    for path in TESTS:
        by_file.setdefault(path.stem, set()).update(defined_in(path))
    everywhere = set().union(*by_file.values())
    missing = [
        found[0]
        for found in NAMED.finditer((ROOT / document).read_text(encoding="utf-8"))
        if found["test"] not in (by_file.get(found["file"], set()) if found["file"] else everywhere | by_file.keys())
    ]
    assert missing == []


def test_every_claim_on_security_has_a_test() -> None:
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    claims = [
        line
        for table in text.split("| what holds | test |\n| --- | --- |\n")[1:]
        for line in table.split("\n\n")[0].splitlines()
    ]
    assert len(claims) > 20
    assert [claim for claim in claims if not re.search(r"`test_\w+::test_\w+`", claim)] == []
