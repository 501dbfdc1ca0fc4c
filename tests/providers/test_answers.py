"""What the headers and statuses of any service mean."""

import pytest

from providers.answers import RETRY_AFTER_MAX_S, Answer, addresses_in, error_of, retry_after_s
from providers.base import AuthFailed, Refused, Transient

NOW_S = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("99999999", RETRY_AFTER_MAX_S),
        ("Tue, 14 Nov 2023 22:13:27 GMT", 7.0),
        ("Tue, 14 Nov 2023 22:13:27", 7.0),
        ("Tuesday, 14-Nov-23 22:13:27 GMT", 7.0),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
        ("Wed, 14 Nov 2040 22:13:00 GMT", RETRY_AFTER_MAX_S),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("Tue, 99 Nov 2023 22:13:27 GMT", None),
    ],
)
def test_retry_after_in_both_its_forms(value: str, wait_s: float | None) -> None:
    assert retry_after_s({"retry-after": value}, NOW_S) == wait_s


def test_no_retry_after() -> None:
    assert retry_after_s({}) is None


@pytest.mark.parametrize("status", [302, 408, 425, 429, 500, 502, 503, 504])
def test_worth_repeating(status: int) -> None:
    error = error_of(Answer(status, {"retry-after": "7"}, b""), "busy")
    assert isinstance(error, Transient)
    assert error.retry_after_s == 7


@pytest.mark.parametrize(("status", "kind"), [(401, AuthFailed), (400, Refused), (403, Refused), (404, Refused)])
def test_not_worth_repeating(status: int, kind: type[Exception]) -> None:
    assert type(error_of(Answer(status, {}, b""), "no")) is kind


def test_a_body_that_is_no_json_leaves_open_what_happened() -> None:
    with pytest.raises(Transient):
        Answer(200, {}, b'{"cut": ').json()
    assert Answer(502, {}, b"<html>").json_or_none() is None


@pytest.mark.parametrize(
    ("report", "named"),
    [
        ("", set()),
        ("email;reason\nAnna@post.test;invalid\n", {"anna@post.test"}),
        ('\ufeff"anna@post.test","o\'hara+a@post.test"', {"anna@post.test", "o'hara+a@post.test"}),
        ("'anna@post.test' is not valid", {"anna@post.test"}),
        (
            '[{"Email": "o\\u0027hara@post.test", "Error": "\\"anna@post.test\\" is wrong"}]',
            {"o'hara@post.test", "anna@post.test"},
        ),
        ('{"anna@post.test": {"error": "no @ alone"}}', {"anna@post.test"}),
    ],
)
def test_a_report_of_any_shape_names_its_addresses(report: str, named: set[str]) -> None:
    assert addresses_in(Answer(200, {}, report.encode())) == named
