"""Reading what a REST service answered: body, retry hints, and the kind of error that a status means."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from providers.base import AuthFailed, ProviderError, Refused, Transient

MAX_ANSWER_BYTES = 64 * 1024 * 1024
RETRY_AFTER_MAX_S = 24 * 3600.0
_TRANSIENT = frozenset({408, 425, 429})


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


def retry_after_s(headers: Mapping[str, str], now_s: float | None = None) -> float | None:
    """Seconds to wait by `Retry-After`, which holds seconds or an HTTP date (RFC 9110, 10.2.3); None without one."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        wait_s = at.timestamp() - (time.time() if now_s is None else now_s)
    return min(max(wait_s, 0.0), RETRY_AFTER_MAX_S) if math.isfinite(wait_s) else None


def error_of(answer: Answer, detail: str) -> ProviderError:
    """The error that an unsuccessful status means where the service gives it no meaning of its own."""
    text = f"{answer.status} {detail}"
    if answer.status in _TRANSIENT or answer.status >= 500 or 300 <= answer.status < 400:
        return Transient(text, retry_after_s(answer.headers))
    if answer.status == 401:
        return AuthFailed(text)
    return Refused(detail=text)
