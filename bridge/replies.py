"""The wire, outwards: what came of a request becomes the JSON that Planfix reads. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from bridge.strict_json import BadRequest
from bridge.texts import presentable, text
from bridge.tickets import REJECTED_SHOWN
from providers.base import Reason


@dataclass(frozen=True, slots=True)
class ListCreated:
    list_id: str


@dataclass(frozen=True, slots=True)
class Refusal:
    contact_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Failure:
    """Nothing can be done until somebody acts. `code` is a key of `bridge.texts`; `detail` is shown after its text."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The ESP is down, and this action cannot wait for it."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a request's contacts.

    `rejected` are the first of the `rejected_count` that were refused, at least one when any was.
    """

    delivered: int = 0
    pending: int = 0
    rejected: Sequence[Refusal] = ()
    rejected_count: int = 0
    failure: Failure | None = None


Outcome: TypeAlias = ListCreated | Tally | Failure | Unavailable


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and a body that holds `success: true` or `error`, never both, never neither."""

    status: int
    body: dict[str, object]

    def encode(self) -> bytes:
        return msgspec.json.encode(self.body)


def reply_to(outcome: Outcome, language: str, always_200: bool) -> Reply:
    """The reply to a request that was understood."""
    match outcome:
        case ListCreated(list_id):
            return Reply(200, {"success": True, "listId": list_id})
        case Unavailable():
            return error_reply(200 if always_200 else 503, "esp_down", language)
        case Failure() as failure:
            return _failure_reply(failure, language)
        case Tally(failure=Failure() as failure):
            return _failure_reply(failure, language)
        case Tally():
            return _tally_reply(outcome, language)


def bad_request_reply(error: BadRequest, language: str, always_200: bool) -> Reply:
    """The reply to a request that was not understood."""
    return _error(200 if always_200 else error.status, text(error.code, language, field=error.field))


def unauthorized_reply(language: str, always_200: bool) -> Reply:
    """The reply to a wrong or missing token."""
    return error_reply(200 if always_200 else 401, "unauthorized", language)


def error_reply(status: int, code: str, language: str) -> Reply:
    """An error outside the four actions: wrong path, broken HTTP, a fault of ours. `code` has no placeholders."""
    return _error(status, text(code, language))


def _failure_reply(failure: Failure, language: str) -> Reply:
    message = text(failure.code, language)
    return _error(200, f"{message} ({presentable(failure.detail)})" if failure.detail else message)


def _tally_reply(tally: Tally, language: str) -> Reply:
    if not tally.rejected_count:
        return Reply(200, {"success": True, "pending": tally.pending} if tally.pending else {"success": True})
    if not tally.delivered and not tally.pending:
        reason = text(tally.rejected[0].reason, language)
        if tally.rejected_count == 1:
            return _error(200, reason)
        return _error(200, text("all_refused", language, count=tally.rejected_count, reason=reason))
    rejected = [
        {"id": refusal.contact_id, "reason": text(refusal.reason, language)}
        for refusal in tally.rejected[:REJECTED_SHOWN]
    ]
    body = {"success": True, "delivered": tally.delivered, "pending": tally.pending, "rejected": rejected}
    return Reply(200, body)


def _error(status: int, message: str) -> Reply:
    return Reply(status, {"error": message})
