"""The calls of one SendGrid account: each with its shape, its paging, its parts and the meaning of its refusals."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from providers.answers import Answer
from providers.base import BOUNCED, Refused, Transient
from providers.concurrency import chunks, together
from providers.jobs import Polling, follow
from providers.sendgrid.answers import (
    Accepted,
    Export,
    ExportStarted,
    Field,
    Fields,
    Found,
    GlobalSuppression,
    Groups,
    Hits,
    Job,
    ListInfo,
    ListsPage,
    Scopes,
    Suppressed,
    read,
)
from providers.sendgrid.client import CallRefused, SendgridApi, without_addresses

FIELD = "planfix_id"
CHUNK = 100  # addresses or ids in one call; of searches it is SendGrid's limit
SEARCH_ADDRESS_CHARS = 100  # of `search/emails`
EXPORT_FILE_MB = 50  # below what one answer may hold

_LISTS_PAGE = 1000
_SUPPRESSIONS_PAGE = 500
_ENDED = frozenset({"completed", "errored", "failed"})

T = TypeVar("T")


class Caller(Protocol):
    """`SdkProvider.call`: runs one blocking call in a thread."""

    async def __call__(self, operation: str, function: Callable[..., Any], **arguments: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class OptOuts:
    """What keeps an address out: unsubscribe groups by id, and everything at once."""

    groups: frozenset[int] = frozenset()
    everywhere: bool = False

    def __bool__(self) -> bool:
        return bool(self.groups) or self.everywhere

    def __or__(self, other: "OptOuts") -> "OptOuts":
        return OptOuts(self.groups | other.groups, self.everywhere or other.everywhere)


class Account:
    """What the account holds and does, one method per thing. Raises as `SendgridApi` does.

    `polling` is when jobs and exports are looked at.
    """

    def __init__(self, api: SendgridApi, call: Caller, polling: Polling) -> None:
        self._api = api
        self._call = call
        self._polling = polling
        self._field_id: str | None = None
        self._field_lock = asyncio.Lock()

    # Lists

    async def scopes(self) -> list[str]:
        """The scopes of the key, which is thereby tested."""
        return read(await self._call("scopes", self._api.client.scopes.get), Scopes).scopes

    async def lists(self) -> list[ListInfo]:
        lists: list[ListInfo] = []
        query: dict[str, str] = {"page_size": str(_LISTS_PAGE)}
        seen: set[str] = set()
        while True:
            answer = await self._call("lists", self._api.client.marketing.lists.get, query_params=query)
            page = read(answer, ListsPage)
            lists += page.result
            # Only the token is taken from the link: the link itself may lead to another host.
            token = parse_qs(urlsplit(page.metadata.next or "").query).get("page_token", [""])[0]
            if not token or token in seen:
                return lists
            seen.add(token)
            query["page_token"] = token

    async def has_list(self, list_id: str) -> bool:
        try:
            await self._call("list", self._api.client.marketing.lists._(list_id).get)
        except CallRefused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    async def create_list(self, name: str) -> str:
        create = self._api.client.marketing.lists.post
        return read(await self._call("create_list", create, request_body={"name": name}), ListInfo).id

    async def delete_list(self, list_id: str) -> None:
        # Never with `delete_contacts`: that deletes them from the account, other lists included.
        await self._call("delete_list", self._api.client.marketing.lists._(list_id).delete)

    # The custom field that holds the Planfix id

    async def find_field(self) -> Field | None:
        """The field, whatever its type; names are unique regardless of case."""
        answer = await self._call("fields", self._api.client.marketing.field_definitions.get)
        return next((f for f in read(answer, Fields).custom_fields if f.name.lower() == FIELD), None)

    async def field_id(self) -> str:
        """The id of the field, which is made if it is not there. Looked up once."""
        async with self._field_lock:
            if self._field_id is None:
                field = await self.find_field() or await self._create_field()
                if field.field_type != "Text":
                    raise Refused(detail=f"the custom field {field.name} is no Text field: rename or delete it")
                self._field_id = field.id
            return self._field_id

    async def _create_field(self) -> Field:
        body = {"name": FIELD, "field_type": "Text"}
        try:
            answer = await self._call(
                "create_field", self._api.client.marketing.field_definitions.post, request_body=body
            )
        except CallRefused:
            if field := await self.find_field():  # somebody was quicker
                return field
            raise
        return read(answer, Field)

    async def field_is_gone(self) -> bool:
        """Whether somebody deleted the field since it was looked up; then it is forgotten here too."""
        field = await self.find_field()
        if field is not None and field.id == self._field_id:
            return False
        self._field_id = None
        return True

    def planfix_id(self, found: Found) -> str | None:
        fields = {key.lower(): value for key, value in (found.custom_fields or {}).items()}
        value = fields.get(FIELD, fields.get((self._field_id or "").lower()))
        return None if value is None else str(value)

    # Contacts and jobs

    async def put(self, list_id: str, rows: Sequence[msgspec.Raw]) -> str:
        """Starts an upsert of rows onto the list; the job's id."""
        body = {"list_ids": [list_id], "contacts": rows}
        return self._job_id(await self._call("upsert", self._api.client.marketing.contacts.put, request_body=body))

    async def take_off(self, list_id: str, contact_ids: Sequence[str]) -> str:
        """Starts taking at most CHUNK contacts off the list; the job's id."""
        query = {"contact_ids": ",".join(contact_ids)}
        delete = self._api.client.marketing.lists._(list_id).contacts.delete
        return self._job_id(await self._call("remove", delete, query_params=query))

    async def delete_contacts(self, contact_ids: Sequence[str]) -> str:
        """Starts deleting at most CHUNK contacts from the account; the job's id."""
        query = {"ids": ",".join(contact_ids)}
        delete = self._api.client.marketing.contacts.delete
        return self._job_id(await self._call("delete_contacts", delete, query_params=query))

    @staticmethod
    def _job_id(answer: Answer) -> str:
        return str(read(answer, Accepted).job_id)

    async def follow(self, job_id: str) -> Job:
        """The job when it has ended. Raises as `providers.jobs.follow`."""
        look = self._api.client.marketing.contacts.imports._(job_id).get
        return await self._poll("job", look, Job, lambda job: job.status in _ENDED)

    async def has_ended(self, job_id: str) -> bool:
        job = read(await self._call("job", self._api.client.marketing.contacts.imports._(job_id).get), Job)
        return job.status in _ENDED

    async def finish(self, job_id: str) -> None:
        """Follows a removal; Transient when it did not do all."""
        job = await self.follow(job_id)
        if job.status != "completed":
            raise Transient(f"a removal job of SendGrid ended as {job.status}")

    async def _poll(self, operation: str, look: Callable[..., Any], shape: type[T], ended: Callable[[T], bool]) -> T:
        async def seen() -> T:
            return read(await self._call(operation, look), shape)

        return await follow(seen, ended, self._polling)

    async def download(self, url: str) -> str:
        """The text of a file that a job or export points to."""
        text: str = await self._call("download", lambda: self._api.download(url))
        return text

    async def search(self, addresses: Iterable[str]) -> dict[str, Found]:
        """Lower-case address → the contact whose main address it is. Who is not in it is not in the account."""
        wanted = sorted(dict.fromkeys(addresses), key=len)
        short = [a for a in wanted if len(a) <= SEARCH_ADDRESS_CHARS]
        long = wanted[len(short) :]
        pages = await together(self._search(chunk) for group in (short, long) for chunk in chunks(group, CHUNK))
        return {address: found for page in pages for address, found in page.items()}

    async def _search(self, addresses: list[str]) -> dict[str, Found]:
        search = self._api.client.marketing.contacts.search
        if len(addresses[-1]) <= SEARCH_ADDRESS_CHARS:
            post, body = search.emails.post, {"emails": addresses}
        else:
            post, body = search.identifiers.email.post, {"identifiers": addresses}
        try:
            hits = read(await self._call("search", post, request_body=body), Hits).result
        except CallRefused as refused:
            if refused.status == 404:
                return {}
            if refused.status != 400:
                raise
            return await self._search_without_bad_ones(addresses, refused)
        found = {}
        for address, hit in hits.items():
            if hit.contact is None:
                if "not found" not in (hit.error or ""):
                    raise Transient(f"SendGrid could not look up an address: {without_addresses(hit.error or '')}")
            # An alternate address of somebody else is a hit too.
            elif (hit.contact.email or "").lower() == address.lower():
                found[address.lower()] = hit.contact
        return found

    async def _search_without_bad_ones(self, addresses: list[str], refused: CallRefused) -> dict[str, Found]:
        """One address that SendGrid takes for none refuses the whole search; it cannot be a contact's either."""
        if not refused.says("email"):
            raise refused
        if len(addresses) == 1:
            return {}
        middle = len(addresses) // 2
        return await self._search(addresses[:middle]) | await self._search(addresses[middle:])

    # Suppressions

    async def opt_outs(self, address: str) -> OptOuts:
        """What the address has opted out of; a spam report counts as everything."""
        asm, reports = self._api.client.asm.suppressions, self._api.client.suppression.spam_reports
        groups = read(await self._call("opt_outs", asm._(address).get), Groups)
        everywhere = read(await self._call("opt_outs", asm._("global")._(address).get), GlobalSuppression)
        spam = read(await self._call("opt_outs", reports._(address).get), list[Suppressed])
        suppressed = frozenset(group.id for group in groups.suppressions if group.suppressed)
        return OptOuts(suppressed, bool(everywhere.recipient_email or spam))

    async def opt_out(self, group: int | None, addresses: Iterable[str]) -> None:
        """Suppresses addresses in one unsubscribe group, or everywhere. A group that is gone counts as everywhere."""
        asm = self._api.client.asm
        post = asm.suppressions._("global").post if group is None else asm.groups._(group).suppressions.post
        for chunk in chunks(addresses, CHUNK):
            await self._call("opt_out", post, request_body={"recipient_emails": chunk})

    async def kept_out(self) -> dict[str, str]:
        """Every address of the account that SendGrid sends nothing to, or nothing of some group; and how that came."""
        addresses: dict[str, str] = {}
        for kind, how in (("bounces", BOUNCED), ("spam_reports", "complained"), ("unsubscribes", "unsubscribed")):
            get = self._api.client.suppression._(kind).get
            page: list[Suppressed] = []
            offset = 0
            while offset == 0 or len(page) == _SUPPRESSIONS_PAGE:
                query = {"limit": str(_SUPPRESSIONS_PAGE), "offset": str(offset)}
                page = read(await self._call("opt_outs", get, query_params=query), list[Suppressed])
                addresses |= {one.email.lower(): how for one in page}
                offset += _SUPPRESSIONS_PAGE
        groups = read(await self._call("opt_outs", self._api.client.asm.suppressions.get), list[Suppressed])
        return addresses | {one.email.lower(): "unsubscribed" for one in groups}

    # Export

    async def export(self, list_id: str) -> AsyncIterator[dict[str, str]]:
        """The rows of the list, keys in lower case. SendGrid writes them into files; there are no pages to read."""
        exports = self._api.client.marketing.contacts.exports
        body = {"list_ids": [list_id], "file_type": "csv", "max_file_size": EXPORT_FILE_MB}
        started = read(await self._call("export", exports.post, request_body=body), ExportStarted)
        look = exports._(started.id).get
        export = await self._poll("export", look, Export, lambda seen: seen.status in ("ready", "failure"))
        if export.status != "ready":
            raise Transient("SendGrid could not export the list")
        for url in export.urls:
            for row in csv.DictReader(io.StringIO(await self.download(url), newline="")):
                yield {key.lower(): value or "" for key, value in row.items() if key}
