"""The shapes of SendGrid's answers: only what is read of them."""

from typing import Any, TypeVar

import msgspec

from providers.answers import Answer
from providers.base import Transient

T = TypeVar("T")


def read(answer: Answer, shape: type[T]) -> T:
    """The body in its shape; Transient when it has another, for then nobody knows what SendGrid did."""
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except msgspec.DecodeError as error:
        raise Transient(f"{answer.status} with an unexpected body ({len(answer.body)} bytes)") from error


class ListInfo(msgspec.Struct):
    id: str
    name: str


class Metadata(msgspec.Struct):
    next: str | None = None


class ListsPage(msgspec.Struct):
    result: list[ListInfo]
    metadata: Metadata = msgspec.field(name="_metadata", default_factory=Metadata)


class Field(msgspec.Struct):
    id: str
    name: str
    field_type: str


class Fields(msgspec.Struct):
    custom_fields: list[Field]


class Accepted(msgspec.Struct):
    job_id: Any  # a text; the spec says object for one of the calls


class JobResults(msgspec.Struct):
    errored_count: int | None = None
    errors_url: str | None = None


class Job(msgspec.Struct):
    """A job that has ended: `completed`, `errored` (some rows) or `failed` (all rows)."""

    status: str
    results: JobResults | None = None

    @property
    def errors_url(self) -> str | None:
        return self.results.errors_url if self.results else None

    @property
    def errored_count(self) -> int:
        return (self.results.errored_count if self.results else None) or 1


class Found(msgspec.Struct):
    """A contact of the account. Its custom fields have names or ids as keys: the spec does not say which."""

    id: str
    email: str | None = None
    list_ids: list[str] | None = None
    custom_fields: dict[str, Any] | None = None


class Hit(msgspec.Struct):
    contact: Found | None = None
    error: str | None = None


class Hits(msgspec.Struct):
    result: dict[str, Hit]


class Group(msgspec.Struct):
    id: int
    suppressed: bool


class Groups(msgspec.Struct):
    suppressions: list[Group]


class GlobalSuppression(msgspec.Struct):
    recipient_email: str | None = None


class Suppressed(msgspec.Struct):
    email: str


class Export(msgspec.Struct):
    status: str
    urls: list[str] = []


class ExportStarted(msgspec.Struct):
    id: str


class Scopes(msgspec.Struct):
    scopes: list[str]
