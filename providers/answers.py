"""Reading what a service answered over HTTP: body, retry hints, and the kind of error that a status or code means."""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias

from providers.errors import AuthFailed, ContactRefused, ProviderError, RateLimited, Reason, Refused, Transient

MAX_ANSWER_BYTES = 64 * 1024 * 1024
RETRY_AFTER_MAX_S = 24 * 3600.0
_EPOCH_S = 1_000_000_000.0  # a larger "wait" is a point in time
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_PART_OF_ADDRESS = r"[^\s\"<>()\[\]{},;:\\]+"
_ADDRESS = re.compile(f"{_PART_OF_ADDRESS}@{_PART_OF_ADDRESS}")


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read to its end. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON; Transient when it is none, for then nobody knows what the service did."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Transient(f"status {self.status} with a body that is no JSON ({len(self.body)} bytes)") from error

    def json_or_none(self) -> Any:
        """The body as JSON, None when it is none: for error bodies, which a proxy may have written."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def text(self) -> str:
        """The start of the body, for the log."""
        return self.body[:500].decode("utf-8", "replace")


def addresses_in(report: Answer) -> set[str]:
    """All addresses that a report names, in small letters. It may be JSON of any shape, a table or plain text."""
    told = report.json_or_none()
    text = report.body.decode("utf-8-sig", "replace") if told is None else json.dumps(told, ensure_ascii=False)
    return {found.strip("'") for found in _ADDRESS.findall(text.lower())}


def wait_s(value: object, now_s: float | None = None) -> float | None:
    """Seconds to wait by a service's own words: a number of seconds ("7", "432 seconds"), a Unix time, or an HTTP date
    (RFC 9110, 10.2.3). None when it is none of these."""
    text = str(value).strip()
    now_s = time.time() if now_s is None else now_s
    if found := _NUMBER.match(text):
        seconds = float(found[0])
        told_s = seconds - now_s if seconds >= _EPOCH_S else seconds
    else:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        told_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_s
    return min(max(told_s, 0.0), RETRY_AFTER_MAX_S) if math.isfinite(told_s) else None


def retry_after_s(headers: Mapping[str, str], now_s: float | None = None) -> float | None:
    """Seconds to wait by the header `Retry-After`; None without one."""
    return wait_s(headers["retry-after"], now_s) if "retry-after" in headers else None


class CallRefused(Refused):
    """A call that the service refused. `status` and `code` are its own; a provider may know what they mean there."""

    def __init__(self, reason: Reason, detail: str, answer: Answer, code: object = None) -> None:
        super().__init__(reason, detail)
        self.answer = answer
        self.status = answer.status
        self.code = code


Kind: TypeAlias = type[Transient] | type[AuthFailed] | type[ContactRefused] | Reason
"""What follows from an error. A Reason is raised as `CallRefused`."""

_BY_STATUS: Mapping[int, Kind] = {
    401: AuthFailed,
    402: Reason.PLAN_LIMIT,
    403: AuthFailed,
    408: Transient,
    413: ContactRefused,  # the batch is too large for this service: it is halved
    425: Transient,
    429: Transient,
}


def no_codes(_: Any) -> Iterable[object]:
    """A service that tells only by status."""
    return ()


def is_refusal(answer: Answer) -> bool:
    """Whether an answer is no success, for services that tell so by status."""
    return not answer.ok


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorTable:
    """What the errors of one service mean, as data.

    `codes` finds the service's own codes in the JSON of an answer; the first that `by_code` knows counts, then the
    status by `by_status`, then the status as most services mean it. `is_error` tells an error of services that answer
    200 to everything. `marks` are keys of which every error body of the service holds one: an error without them was
    written by something in between. `retry_headers` (small letters) and `retry_in_body` (keys, outermost first) hold
    the wait that the service wishes.
    """

    codes: Callable[[Any], Iterable[object]] = no_codes
    by_code: Mapping[object, Kind] = field(default_factory=dict)
    by_status: Mapping[int, Kind] = field(default_factory=dict)
    is_error: Callable[[Answer], bool] = is_refusal
    marks: frozenset[str] = frozenset()
    retry_headers: tuple[str, ...] = ("retry-after",)
    retry_in_body: tuple[str, ...] = ()

    def is_own(self, answer: Answer) -> bool:
        """Whether an error comes from the service itself: "not there" by a proxy or gateway says nothing of it."""
        if not self.marks:
            return not answer.body.lstrip().startswith(b"<")
        body = answer.json_or_none()
        return isinstance(body, dict) and not self.marks.isdisjoint(body)

    def error_of(self, answer: Answer, operation: str) -> ProviderError:
        """The error that an answer, for which `is_error` holds, stands for."""
        body = answer.json_or_none()
        codes = self._codes(body)
        code = next((code for code in codes if code in self.by_code), codes[0] if codes else None)
        kind = self._kind(answer.status, code)
        said = "; ".join(texts_in(body))[:500]
        detail = f"{operation}: {answer.status}{f' {code}' if code is not None else ''} {said}".rstrip()
        if kind is Transient:
            return (RateLimited if answer.status == 429 else Transient)(detail, self._wait_s(answer, body))
        if isinstance(kind, Reason):
            return CallRefused(kind, detail, answer, code)
        return ContactRefused(detail=detail) if kind is ContactRefused else AuthFailed(detail)

    def _codes(self, body: Any) -> list[object]:
        try:
            return list(self.codes(body))
        except (AttributeError, IndexError, KeyError, TypeError):  # a body of another shape: a proxy's, or none
            return []

    def _kind(self, status: int, code: object) -> Kind:
        if code in self.by_code:
            return self.by_code[code]
        if status >= 500 or 300 <= status < 400:
            return self.by_status.get(status, Transient)
        return self.by_status.get(status, _BY_STATUS.get(status, Reason.REQUEST_REFUSED))

    def _wait_s(self, answer: Answer, body: Any) -> float | None:
        told: list[object] = [answer.headers[name] for name in self.retry_headers if name in answer.headers]
        for key in self.retry_in_body:
            body = body.get(key) if isinstance(body, dict) else None
        told += [body] if isinstance(body, str | int | float) else []
        return next((s for value in told if (s := wait_s(value)) is not None), None)


_SAID_IN = ("code", "title", "error", "message", "detail", "description", "error_description", "errors", "ErrorMessage")


def texts_in(body: Any, depth: int = 3) -> Iterator[str]:
    """The texts of an error body under the names that services use for them, for the log."""
    if isinstance(body, str | int) and not isinstance(body, bool):
        yield str(body)
    elif depth and isinstance(body, list):
        for item in body[:10]:
            yield from texts_in(item, depth - 1)
    elif depth and isinstance(body, dict):
        named = [body[key] for key in _SAID_IN if body.get(key)]
        for value in named or list(body.values())[:10]:
            yield from texts_in(value, depth - 1)


def error_of(answer: Answer, detail: str) -> ProviderError:
    """The error that an unsuccessful status means where the service gives it no meaning of its own."""
    text = f"{answer.status} {detail}"
    if answer.status in (408, 425, 429) or answer.status >= 500 or 300 <= answer.status < 400:
        return Transient(text, retry_after_s(answer.headers))
    if answer.status == 401:
        return AuthFailed(text)
    return Refused(detail=text)
