"""The texts that people read: complete in every language, safe whatever goes into them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.languages import LANGUAGES, translations
from bridge.texts import TEXTS, VALUE_MAX_CHARS, presentable, text
from providers.base import Reason

CODES_OF_THE_BRIDGE = [
    *["auth_failed", "esp_down", "internal", "list_deleted", "storage", "unknown_list", "unsupported"],
    *["bad_http", "method_not_allowed", "not_found", "too_large", "too_slow", "unauthorized"],
]


PLACEHOLDER = re.compile(r"%\((\w+)\)s")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", TEXTS)
def test_every_text_is_a_short_line_of_whole_sentences(code: str, language: str) -> None:
    template = translations(language).gettext(TEXTS[code])
    assert len(template) <= 120
    assert template == " ".join(template.split())
    assert template.endswith((".", ")s"))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", [*Reason, *CODES_OF_THE_BRIDGE])
def test_every_reason_and_failure_has_a_text_without_placeholders(code: str, language: str) -> None:
    assert not PLACEHOLDER.search(TEXTS[code])
    assert text(code, language)


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


def test_a_value_is_no_template() -> None:
    assert text("missing_field", "en", field="%(field)s 5 %").startswith("%(field)s 5 %: ")


@given(st.text(alphabet=st.characters()) | st.integers() | st.none())
def test_any_value_comes_out_as_one_bounded_line_that_can_be_sent(value: object) -> None:
    shown = presentable(value)
    shown.encode()
    assert len(shown) <= VALUE_MAX_CHARS
    assert shown == " ".join(shown.split())
