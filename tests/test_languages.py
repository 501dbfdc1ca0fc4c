"""The catalogs of translations: each holds what the code and the templates say, all of it and nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.frontend import CommandLineInterface
from babel.messages.pofile import read_po

import bridge
import providers
from bridge.languages import CATALOGS, DOMAIN, LANGUAGES, translations
from bridge.texts import TEXTS, VALUE_MAX_CHARS, translated
from providers.base import Message, Reason

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [Path(package.__file__ or "").parent for package in (bridge, providers)]
TRANSLATED = [language for language in LANGUAGES if language != "en"]
MARKERS = ("Message", "gettext_noop")
PLACEHOLDER = re.compile(r"%\((\w+)\)s")


def catalog_of(language: str) -> Catalog:
    with (CATALOGS / language / "LC_MESSAGES" / f"{DOMAIN}.po").open("rb") as file:
        return read_po(file, locale=language, abort_invalid=True)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """All texts in the code and the templates, found as `make catalogs` finds them."""
    found = tmp_path_factory.mktemp("catalogs") / "bridge.pot"
    options = ["--mapping", str(ROOT / "pyproject.toml"), "--no-default-keywords", "--output", str(found)]
    keywords = ["--keyword", "Message gettext gettext_noop"]
    CommandLineInterface().run(["pybabel", "--quiet", "extract", *options, *keywords, *map(str, PACKAGES)])
    with found.open("rb") as file:
        return {str(message.id) for message in read_po(file) if message.id}


def sources() -> Iterator[tuple[Path, ast.AST]]:
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            yield path, ast.parse(path.read_text())


def test_the_texts_are_found(said: set[str]) -> None:
    assert said >= set(TEXTS.values()), "texts of replies"
    assert "Everything works" in said, "texts of templates"
    assert "Mailchimp takes the API key" in said, "texts of providers"


def test_there_is_a_catalog_for_every_language_and_for_no_other() -> None:
    assert sorted(folder.name for folder in CATALOGS.iterdir()) == TRANSLATED


@pytest.mark.parametrize("language", TRANSLATED)
def test_everything_is_translated_and_nothing_is_that_nobody_says(said: set[str], language: str) -> None:
    catalog = catalog_of(language)
    usable = {str(message.id) for message in catalog if message.id and message.string and not message.fuzzy}
    assert sorted(said - usable) == [], "without a translation; run make catalogs and fill it in"
    assert sorted({str(message.id) for message in catalog if message.id} - said) == [], "stale; run make catalogs"
    assert not catalog.obsolete


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_translation_has_the_placeholders_of_its_text(language: str) -> None:
    for message in catalog_of(language):
        if message.id:
            assert sorted(PLACEHOLDER.findall(message.string)) == sorted(PLACEHOLDER.findall(message.id)), message.id
            rest = PLACEHOLDER.sub("", message.string).replace("%%", "")
            assert "%" not in rest, message.id


@pytest.mark.parametrize("language", TRANSLATED)
def test_no_translation_is_its_own_text(language: str) -> None:
    assert [message.id for message in catalog_of(language) if message.id and message.id == message.string] == []


def test_russian_is_russian_and_what_stands_in_the_code_is_not(said: set[str]) -> None:
    assert [text for text in TEXTS.values() if re.search("[а-яёА-ЯЁ]", text)] == []
    russian = {str(message.string) for message in catalog_of("ru") if message.id}
    assert [text for text in russian if not re.search("[а-яё]", text)] == []


def test_no_text_of_a_reply_is_without_a_use() -> None:
    written = {
        node.value
        for path, tree in sources()
        if path.name != "texts.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert sorted(set(TEXTS) - {str(reason) for reason in Reason} - written) == []


def test_messages_are_written_out_where_the_catalogs_look_for_them() -> None:
    calls = [
        (path.name, node.lineno, node.args[0])
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKERS
    ]
    assert calls
    assert [call[:2] for call in calls if not isinstance(call[2], ast.Constant)] == []
    templates = [path.read_text() for package in PACKAGES for path in package.rglob("*.html")]
    assert re.findall(r"gettext\([^\"].*", "".join(templates)) == []


def test_a_message_is_translated_before_its_values_are_filled_in() -> None:
    message = Message("Lists in use: %(count)s of %(most)s.", count=3, most="%(count)s")
    assert str(message) == "Lists in use: 3 of %(count)s."
    assert translated(message, "en") == str(message)
    assert translated(message, "ru") == "Занято списков: 3 из %(count)s."


def test_a_message_may_hold_another() -> None:
    message = Message("does not answer: %(detail)s", detail=Message("contact properties"))
    assert str(message) == "does not answer: contact properties"
    assert translated(message, "ru") == "не отвечает: свойства контактов"


def test_a_message_that_nobody_translated_is_shown_as_it_is() -> None:
    assert translated(Message("%(share)s %% of new words", share=5), "ru") == "5 % of new words"


def test_values_of_messages_are_presentable() -> None:
    shown = translated(Message("does not answer: %(detail)s", detail="masha@example.com\n" + "x" * 999), "en")
    assert "masha@example.com" not in shown
    assert shown.isprintable()
    assert len(shown) <= len("does not answer: ") + VALUE_MAX_CHARS


def test_a_language_that_is_not_spoken_is_an_error() -> None:
    with pytest.raises(KeyError):
        translations("de")
