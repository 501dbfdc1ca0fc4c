"""The search for secrets in logs finds them, wherever in a line they stand."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from providers.base import Secret
from tests.leaks import leaks_in, watched_logs

TOKEN = "Kq7-planfix-token-Zw9"
LEAK = r"token-Zw9|clients\.example"


def watched(log: Callable[[], None], *records: logging.LogRecord) -> None:
    with watched_logs(lambda: records):
        Secret(TOKEN)
        log()


@pytest.mark.parametrize(
    "event",
    [
        {"detail": f"the key {TOKEN} was refused"},
        {TOKEN: 1},
        {"detail": {"headers": [f"Bearer {TOKEN}"]}},
        {"detail": {"to": "anna.petrova@clients.example"}},
        {"detail": {"path": "/members/anna%40clients.example"}},
        {"detail": ValueError(f"no such key: {TOKEN}")},
    ],
    ids=str,
)
def test_a_leak_fails_the_test_that_made_it(event: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=LEAK):
        watched(lambda: structlog.get_logger().warning("something_happened", **event))


def test_a_leak_in_an_exception_fails_too() -> None:
    def break_down() -> None:
        try:
            raise ValueError(TOKEN)
        except ValueError:
            structlog.get_logger().exception("it_broke")

    with pytest.raises(AssertionError, match=LEAK):
        watched(break_down)


def test_a_leak_of_another_logger_fails_too() -> None:
    record = logging.LogRecord("some.library", logging.WARNING, "", 0, "GET /?key=%s", (TOKEN,), None)
    with pytest.raises(AssertionError, match=LEAK):
        watched(lambda: None, record)


def test_what_the_bridge_cuts_out_is_no_leak() -> None:
    with watched_logs(list) as lines:
        key = Secret("0123456789abcdef0123456789abcdef-us21")
        structlog.get_logger().warning("refused", detail=f"{key.reveal()} of anna@clients.example", nested=[key])
    assert len(lines) == 1
    assert leaks_in("a***@c*** postgresql://user@host/db token: <secret> 12:30@noon") == []
