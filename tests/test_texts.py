"""The texts that people read: complete in every language, safe whatever goes into them."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.texts import LANGUAGES, TEXTS, VALUE_MAX_CHARS, presentable, text
from providers.base import Reason

CODES_OF_THE_BRIDGE = [
    *["auth_failed", "esp_down", "internal", "list_deleted", "storage", "unknown_list", "unsupported"],
    *["bad_http", "method_not_allowed", "not_found", "too_large", "too_slow", "unauthorized"],
]


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


@pytest.mark.parametrize("code", TEXTS)
def test_every_text_exists_in_every_language_with_the_same_placeholders(code: str) -> None:
    assert tuple(TEXTS[code]) == LANGUAGES
    assert len({frozenset(placeholders(template)) for template in TEXTS[code].values()}) == 1


@pytest.mark.parametrize("code", TEXTS)
def test_every_text_is_a_short_line_of_whole_sentences(code: str) -> None:
    for template in TEXTS[code].values():
        assert len(template) <= 120
        assert template == " ".join(template.split())
        assert template[-1] in ".}"


@pytest.mark.parametrize("code", TEXTS)
def test_russian_texts_are_russian_and_english_ones_are_not(code: str) -> None:
    assert re.search("[а-яё]", TEXTS[code]["ru"])
    assert not re.search("[а-яёА-ЯЁ]", TEXTS[code]["en"])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", [*Reason, *CODES_OF_THE_BRIDGE])
def test_every_reason_and_failure_has_a_text_without_placeholders(code: str, language: str) -> None:
    assert not placeholders(text(code, language))


def test_placeholders_are_filled_in() -> None:
    assert text("missing_field", "en", field="data.listId") == "data.listId: missing or empty. Fill it in."
    assert "Отклонено: 7." in text("all_refused", "ru", count=7, reason="Причина.")


@pytest.mark.parametrize(
    ("code", "language", "values"),
    [("no_such_code", "en", {}), ("internal", "de", {}), ("missing_field", "en", {})],
)
def test_a_text_that_does_not_exist_is_an_error(code: str, language: str, values: dict[str, str]) -> None:
    with pytest.raises(KeyError):
        text(code, language, **values)


def test_values_are_redacted() -> None:
    shown = text("missing_field", "en", field="masha@example.com SG.0123456789abcdef")
    assert "masha@example.com" not in shown
    assert "0123456789abcdef" not in shown


def test_a_key_is_not_saved_from_redaction_by_the_cut() -> None:
    key = "0123456789abcdef" * 2
    assert key[:8] not in presentable("x" * (VALUE_MAX_CHARS - 20) + " " + key)


def test_a_value_with_braces_is_no_template() -> None:
    assert text("missing_field", "en", field="{code.__class__}").startswith("{code.__class__}: ")


@given(st.text(alphabet=st.characters()) | st.integers() | st.none())
def test_any_value_comes_out_as_one_bounded_line_that_can_be_sent(value: object) -> None:
    shown = presentable(value)
    shown.encode()
    assert len(shown) <= VALUE_MAX_CHARS
    assert shown == " ".join(shown.split())
