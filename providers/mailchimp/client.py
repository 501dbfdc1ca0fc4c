"""The package `mailchimp-marketing` made fit for a server: pooled calls, every failure raised as one of our errors.

As released the package opens a connection per call, gives back a failed answer without a JSON body as if it were a
good one, drops headers, and replaces the word "server" anywhere in a URL. `MailchimpClient` mends these in one place;
the package's own API classes then work on it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mailchimp_marketing.api_client import ApiClient, ApiClientError

from providers.answers import Answer, error_of, retry_after_s
from providers.base import (
    AuthFailed,
    OptedOut,
    Outcome,
    Postponed,
    ProviderError,
    Reason,
    Refused,
    Rejected,
    Transient,
    redact,
)
from providers.sdk import PooledTransport

DAY_S = 24 * 3600.0

_ID = re.compile(r"\w+", re.ASCII)
_DATA_CENTRE = re.compile(r"-([a-z]{2,4}\d{1,4})\Z")


class NotThere(Refused):
    """404: no such audience, segment or member, by the service's own word."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.LIST_GONE, detail)


class BadRequest(Refused):
    """400 or 405. `outcome` is what it means for the contact, if the call was about a single one.

    `fields` are the merge tags or body fields that the service complains of.
    """

    def __init__(self, outcome: Outcome, fields: Sequence[str], detail: str) -> None:
        super().__init__(detail=detail)
        self.outcome = outcome
        self.fields = tuple(fields)


class AlreadyMember(BadRequest):
    """The address belongs to another member of the audience."""


# What the service says of one contact, in a 400 or in a batch's `errors`: a part of title or text → the outcome.
CONTACT_TEXTS: tuple[tuple[str, Outcome], ...] = (
    ("compliance state", OptedOut()),
    ("forgotten email", Rejected(Reason.FORGOTTEN)),
    ("permanently deleted", Rejected(Reason.FORGOTTEN)),
    ("looks fake or invalid", Rejected(Reason.INVALID_ADDRESS)),
    ("valid email address", Rejected(Reason.INVALID_ADDRESS)),
    ("signed up to a lot of lists", Postponed(DAY_S, Reason.TOO_OFTEN)),
)

# The same address under another member: two titles for one meaning.
ALREADY_TEXTS = ("member exists", "already in this list", "already a list member")


@dataclass(frozen=True, slots=True)
class _Row:
    """A 403 with a body: a part of title or text → what it means. The first row that fits counts."""

    text: str
    error: type[AuthFailed] | Reason


FORBIDDEN_ROWS = (
    _Row("wrong datacenter", AuthFailed),
    _Row("user disabled", AuthFailed),
    _Row("plan", Reason.PLAN_LIMIT),
    _Row("upgrade", Reason.PLAN_LIMIT),
    _Row("", Reason.RIGHTS),
)


def contact_outcome(text: str) -> Outcome:
    """What the service's words about one contact mean; words that we do not know refuse the contact."""
    lower = text.lower()
    known: Outcome = next((o for part, o in CONTACT_TEXTS if part in lower), Rejected(Reason.CONTACT_REFUSED))
    return replace(known, detail=redact(text)) if isinstance(known, Rejected | Postponed) else known


def error_from(answer: Answer) -> ProviderError:
    """The error that an unsuccessful answer means. 403 and 404 count only with the service's own body."""
    problem = answer.json_or_none()
    if not isinstance(problem, dict) or not problem:
        if answer.status in (403, 404):  # how the service throttles at high volume, or how a proxy speaks
            return Transient(f"{answer.status} without a JSON body", retry_after_s(answer.headers))
        return error_of(answer, "no JSON body")
    faults = [f for f in problem.get("errors") or () if isinstance(f, dict)]
    text = f"{problem.get('title')}: {problem.get('detail')}"
    text += "".join(f"; {f.get('field')}: {f.get('message')}" for f in faults)
    lower = text.lower()
    detail = f"{answer.status} {text} [{problem.get('instance')}]"
    match answer.status:
        case 400 | 405:  # 405: the member is archived and does not take this call
            kind = AlreadyMember if any(part in lower for part in ALREADY_TEXTS) else BadRequest
            return kind(contact_outcome(text), [str(f.get("field") or "") for f in faults], detail)
        case 403:
            meaning = next(row.error for row in FORBIDDEN_ROWS if row.text in lower)
            return Refused(meaning, detail) if isinstance(meaning, Reason) else meaning(detail)
        case 404:
            return NotThere(detail)
    return error_of(answer, f"{text} [{problem.get('instance')}]")


def base_url_of(api_key: str) -> str | None:
    """The service's address by the data centre at the end of the key; None when the key names none."""
    found = _DATA_CENTRE.search(api_key)
    return f"https://{found[1]}.api.mailchimp.com/3.0" if found else None


class _Reply:
    """A good answer in the shape that the package reads."""

    ok = True
    text = ""

    def __init__(self, data: dict[str, Any] | None) -> None:
        self.headers = {"content-type": "application/json"}
        self._data = data

    def json(self) -> dict[str, Any] | None:
        return self._data


class MailchimpClient(ApiClient):  # type: ignore[misc]  # the package has no types
    """The package's client over our transport.

    `base_url` ends before `/lists`; None takes it from the key. Every call gives a filled dict, or nothing of use for
    a 204; all else raises a ProviderError.
    """

    def __init__(self, *, api_key: str, base_url: str | None, timeout_s: float, connections: int) -> None:
        super().__init__({"server": ""})  # an empty server: the package then leaves URLs alone
        self.host = (base_url or base_url_of(api_key) or "").rstrip("/")
        self.default_headers = {"Content-Type": "application/json", "User-Agent": "planfix-bridge"}
        self._transport = PooledTransport(timeout_s=timeout_s, connections=connections, auth=("bridge", api_key))

    def call_api(
        self, resource_path: str, method: str, path_params: Mapping[str, str] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        if not all(_ID.fullmatch(str(value)) for value in (path_params or {}).values()):
            raise NotThere("an id that Mailchimp never gave")  # and that could lead to another call
        try:
            return super().call_api(resource_path, method, path_params, *args, **kwargs)
        except ApiClientError as error:
            # The package wraps what `request` raises and keeps the exception as its "text".
            if isinstance(error.text, ProviderError):
                raise error.text from error.text.__cause__
            raise

    def request(
        self,
        method: str,
        url: str,
        query_params: Sequence[tuple[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> _Reply:
        if not self.host:
            raise AuthFailed("the API key does not end in a data centre such as -us21: copy it whole")
        answer = self._transport.send(
            method,
            url,
            params={name: _query_text(value) for name, value in query_params or ()},
            headers=headers,
            body=None if body is None else json.dumps(body, ensure_ascii=False).encode(),
        )
        if not answer.ok:
            raise error_from(answer)
        if answer.status == 204:
            return _Reply(None)
        data = answer.json()
        if not isinstance(data, dict) or not data:
            raise Transient(f"{method}: status {answer.status} without content")
        return _Reply(data)

    def close(self) -> None:
        self._transport.close()


def _query_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
