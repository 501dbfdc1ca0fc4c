"""What a service's errors mean, as the tables of providers say."""

import pytest

from providers.answers import Answer, CallRefused, ErrorTable, texts_in, wait_s
from providers.errors import AuthFailed, ContactRefused, RateLimited, Reason, Refused, Transient

NOW_S = 1_700_000_000.0


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0), (7, 7.0), (7.5, 7.5), ("432 seconds", 432.0), ("-3", 0.0), (1_700_000_030, 30.0),
        ("1700000030", 30.0),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0), ("99999999", 86_400.0), ("soon", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_a_wait_in_every_form_that_services_use(value: object, seconds: float | None) -> None:
    assert wait_s(value, NOW_S) == seconds


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, Transient), (401, AuthFailed), (403, AuthFailed), (408, Transient), (413, ContactRefused),
        (425, Transient), (429, RateLimited), (500, Transient), (503, Transient), (400, CallRefused),
        (404, CallRefused), (422, CallRefused),
    ],
)  # fmt: skip
def test_a_status_means_what_it_means_to_most(status: int, kind: type[Exception]) -> None:
    assert type(ErrorTable().error_of(answer(status), "x")) is kind


def test_a_code_that_the_table_knows_counts_for_more_than_the_status() -> None:
    table = ErrorTable(
        codes=lambda body: [body.get("code"), body.get("sub")],
        by_code={"busy": Transient, "plan": Reason.PLAN_LIMIT, "key": AuthFailed},
        by_status={404: Transient, 503: Reason.LIST_GONE},
    )
    assert isinstance(table.error_of(answer(400, b'{"code": "busy"}'), "x"), Transient)
    assert isinstance(table.error_of(answer(500, b'{"code": "other", "sub": "key"}'), "x"), AuthFailed)
    assert isinstance(table.error_of(answer(404, b"{}"), "x"), Transient)
    gone = table.error_of(answer(503, b"[]"), "x")
    assert isinstance(gone, Refused)
    assert gone.reason is Reason.LIST_GONE
    refused = table.error_of(answer(400, b'{"code": "plan"}'), "x")
    assert isinstance(refused, CallRefused)
    assert (refused.reason, refused.status, refused.code) == (Reason.PLAN_LIMIT, 400, "plan")


def test_a_code_that_nobody_knows_is_kept_for_the_provider() -> None:
    table = ErrorTable(codes=lambda body: [body.get("code")])
    refused = table.error_of(answer(400, b'{"code": 1008}'), "upsert")
    assert isinstance(refused, CallRefused)
    assert refused.code == 1008


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        (b"", {"retry_after": "7"}, 7.0),
        (b"", {"x_reset": "432 seconds"}, 432.0),
        (b'{"context": {"timeToReset": "9 seconds"}}', {}, 9.0),
        (b'{"context": {"timeToReset": 9}}', {"retry_after": "7"}, 7.0),
        (b'{"context": []}', {}, None),
        (b"<html>", {"x_reset": "soon"}, None),
    ],
)
def test_the_wait_that_a_service_wishes(body: bytes, headers: dict[str, str], seconds: float | None) -> None:
    table = ErrorTable(retry_headers=("retry-after", "x-reset"), retry_in_body=("context", "timeToReset"))
    error = table.error_of(answer(429, body, **headers), "x")
    assert isinstance(error, Transient)
    assert error.retry_after_s == seconds


def test_what_a_service_said_is_in_the_detail_and_no_address_is() -> None:
    body = b'{"errors": [{"code": "INVALID", "detail": "anna@post.test is taken", "context": {"deep": 1}}]}'
    error = ErrorTable().error_of(answer(400, body), "upsert")
    assert error.detail == "upsert: 400 INVALID; a***@p*** is taken"


@pytest.mark.parametrize(
    ("body", "own"),
    [
        (b'{"code": "document_not_found"}', True),
        (b'{"message": "no Route matched with those values"}', False),
        (b"404 page not found", False),
        (b"", False),
        (b"[]", False),
        (b"<html>", False),
    ],
)
def test_an_error_without_the_services_marks_is_somebody_elses(body: bytes, own: bool) -> None:
    assert ErrorTable(marks=frozenset({"code"})).is_own(answer(404, body)) is own


def test_without_known_marks_only_a_page_is_somebody_elses() -> None:
    assert ErrorTable().is_own(answer(404))
    assert not ErrorTable().is_own(answer(404, b" <!DOCTYPE html>"))


@pytest.mark.parametrize("body", [None, [], {}, "text", {"a": {"b": {"c": {"d": 1}}}}, [[[["deep"]]]], {"error": True}])
def test_any_body_can_be_looked_at(body: object) -> None:
    assert len(list(texts_in(body))) <= 1
