"""MailerLite (the API at connect.mailerlite.com): groups. Quirks: docs/providers/mailerlite.md."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from providers.answers import Answer, CallRefused, ErrorTable
from providers.base import (
    BOUNCED,
    Capabilities,
    Contact,
    Delivered,
    Finding,
    Limits,
    Member,
    MemberState,
    Message,
    OptedOut,
    Outcome,
    Reason,
    Refused,
    Rejected,
    Secret,
    Settings,
    Transient,
)
from providers.concurrency import chunks
from providers.http import Auth, HeaderAuth, Query, json_body, path_of
from providers.jobs import Polling, follow
from providers.names import name_fields
from providers.pace import Rate
from providers.paging import by_cursor, by_page
from providers.plan import Found, without_refused_rows
from providers.rest import Check, Needed, RestProvider

SINGLE_UP_TO: Final = 20  # contacts that go one by one: imports are rationed far more narrowly than other calls
BATCHED: Final = 50  # requests in one call of /batch
PLANFIX_ID: Final = "planfix_id"
FIELDS_MAX: Final = 100
_PAGE: Final = 100
_MEMBERS_PAGE: Final = 1000
_OUT: Final = {"unsubscribed": "unsubscribed", "bounced": BOUNCED, "junk": "complained"}
_STATES: Final = {"active": MemberState.SUBSCRIBED, "unconfirmed": MemberState.PENDING}
# What an import report counts of people whom it may have left out. It names at most five of each.
_LEFT_OUT: Final = ("invalid", "mistyped", "unsubscribed", "role_based", "suspicious_format", "banned_import_emails")
_ROW: Final = re.compile(rb"subscribers\.(\d+)\.")


class MailerliteSettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[Secret, Meta(description="an API token (Integrations, MailerLite API, Generate new token)")]


class MailerliteProvider(RestProvider[MailerliteSettings]):
    """Groups. A subscriber is the account's and is in any number of groups; the status is the account's too. The
    address is the id: imports tell no other."""

    name = "mailerlite"
    title = "MailerLite"
    settings_type = MailerliteSettings
    capabilities = Capabilities(
        list_is="a group",
        renames_address=True,
        tells_opt_outs=True,
        equal_names=True,
        asynchronous=True,
        takes_opt_outs=True,
        unsupported=(
            "Who leaves one group in MailerLite's preference center stays active and is put back by the next change of"
            " the contact: MailerLite keeps no mark of it. Leave the bridge's groups out of the preference center.",
        ),
    )
    limits = Limits(
        batch_size=1000,  # of an import, as other clients have it; MailerLite names no limit
        parallel_calls=4,
        list_name_chars=255,
        lists=1000,
        calls="120 a minute; 5 imports a minute",
    )
    default_base_url = "https://connect.mailerlite.com/api"
    headers: ClassVar = {"Content-Type": "application/json"}  # wanted of every request, also of one without a body
    # There are no codes; of a 422 the names of the fields that were wrong.
    errors = ErrorTable(codes=lambda body: body["errors"])
    rates: ClassVar = {"": [Rate(120, 60)], "imports": [Rate(5, 60)]}
    key_advice = Message(
        "Make a token in MailerLite (Integrations, MailerLite API). A token ends with the user who made it. A token of"
        " MailerLite Classic is another: it does not fit here."
    )
    polling: ClassVar = Polling(first_s=2, longest_s=30, budget_s=1800)

    def __init__(self, settings: MailerliteSettings) -> None:
        super().__init__(settings)
        self._id_field = Needed(self._find_id_field, self._make_id_field)

    def auth(self) -> Auth:
        return HeaderAuth(self.settings.api_key, prefix="Bearer ")

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        async def page(number: int) -> list[Any]:
            answer = await self.call("groups", "GET", "/groups", query={"limit": _PAGE, "page": number})
            return list(answer.json()["data"])

        async for group in by_page(page, _PAGE):
            yield str(group["id"]), group["name"]

    async def has_list(self, list_id: str) -> bool:
        path = "/groups/{}/subscribers"
        return (await self.call("group", "GET", path, list_id, query={"limit": 1}, accept=[404])).status != 404

    async def create_list(self, name: str) -> str:
        try:
            answer = await self.call("create_group", "POST", "/groups", json={"name": name})
        except CallRefused as refused:
            # Whether names may be equal is not documented.
            if refused.code == "name" and await self.find_list(name) is not None:
                raise Refused(Reason.NAME_TAKEN, refused.detail) from refused
            raise
        return str(answer.json()["data"]["id"])

    async def delete_list(self, list_id: str) -> None:
        if self.is_list(list_id):
            await self.call("delete_group", "DELETE", "/groups/{}", list_id, accept=[404])

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        answers = await self._batch("find", [("GET", path_of("api/subscribers/{}", c.known_by)) for c in contacts])
        return [self._found(list_id, one.known_by, answer) for one, answer in zip(contacts, answers, strict=True)]

    @staticmethod
    def _found(list_id: str, address: str, answer: Answer) -> Found | None:
        if answer.status == 404:
            return None
        told = answer.json()["data"]
        if told["email"].lower() != address.lower():
            return None
        groups = {str(group["id"]) for group in told.get("groups") or ()}
        return Found(str(told["id"]), told["email"], _OUT.get(told["status"]), on_list=list_id in groups)

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        if len(contacts) <= SINGLE_UP_TO:
            return await self.one_by_one(contacts, lambda contact: self._put_one(list_id, contact))
        return await self._import(list_id, contacts)

    async def _put_one(self, list_id: str, contact: Contact) -> Outcome:
        """Never with `status` or `resubscribe`: without them MailerLite refuses who is out."""
        body = _row(contact, await self._id_field.get()) | {"groups": [list_id]}
        try:
            answer = await self.call("upsert", "POST", "/subscribers", json=body)
        except CallRefused as refused:
            if refused.status != 422:
                raise
            await self.require_there(list_id, refused)
            (record,) = await self.look_up(list_id, [contact])
            reason = Reason.INVALID_ADDRESS if refused.code == "email" else Reason.CONTACT_REFUSED
            return _kept_out(contact, record) or Rejected(reason, refused.detail)
        return _kept_out(contact, self._found(list_id, contact.address, answer)) or _delivered(contact)

    async def _import(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        id_field = await self._id_field.get()
        rows = [_row(contact, id_field) for contact in contacts]
        path, body = "/groups/{}/import-subscribers", {"subscribers": rows}
        try:
            async with self.job(list_id, contacts) as known_as:
                started = await self.call("import", "POST", path, list_id, json=body, bucket="imports")
                import_id = str(started.json()["import_progress_url"]).rstrip("/").rpartition("/")[2]
                await known_as(import_id)
                report = await follow(lambda: self._report(import_id), _has_ended, self.polling)
        except CallRefused as refused:
            await self.require_there(list_id, refused)
            if refused.status != 422:
                raise
            return await without_refused_rows(refused, _ROW, contacts, lambda others: self._import(list_id, others))
        if _is_complete(report, len(contacts)):
            return [_delivered(contact) for contact in contacts]
        return await self._looked_after(list_id, contacts, report)

    async def has_ended(self, list_id: str, job_id: str) -> bool:
        return _has_ended(await self._report(job_id))

    async def _report(self, import_id: str) -> Any:
        return (await self.call("import_report", "GET", "/subscribers/import/{}", import_id)).json()["data"]

    async def _looked_after(
        self, list_id: str, contacts: Sequence[Contact], report: Mapping[str, Any]
    ) -> list[Outcome]:
        """Who arrived and who did not, read one by one: a report names only some of those whom it left out."""
        limit = report.get("subscriber_limit_count") or report.get("is_stopped_due_to_free_account_limit_exceeded")
        left_out = Rejected(Reason.PLAN_LIMIT if limit else Reason.INVALID_ADDRESS, "left out by the import")
        outcomes: list[Outcome] = []
        for contact, record in zip(contacts, await self.look_up(list_id, contacts), strict=True):
            on_list = record is not None and record.on_list
            outcomes.append(_kept_out(contact, record) or (_delivered(contact) if on_list else left_out))
        return outcomes

    async def rename(self, list_id: str, record: Found, contact: Contact) -> bool:
        # Never with `groups`: here they would replace those that the subscriber is in.
        answer = await self.call(
            "rename", "PUT", "/subscribers/{}", record.id, json={"email": contact.address}, accept=[404, 422]
        )
        return answer.ok and str(answer.json()["data"]["email"]).lower() == contact.address.lower()

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        async def unsubscribe(contact: Contact) -> None:
            body = {"email": contact.address, "status": "unsubscribed"}
            try:
                await self.call("keep_out", "POST", "/subscribers", json=body)
            except CallRefused as refused:
                if refused.status != 422:
                    raise
                # Who is out already is refused, and so is an address that can get no mail anyway.
                (record,) = await self.look_up(list_id, [contact])
                if record and not record.opted_out:
                    raise

        await self.one_by_one(contacts, unsubscribe)

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        path = "api/subscribers/{}/groups/{}"
        await self._batch("remove", [("DELETE", path_of(path, record.id, list_id)) for record in records])

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        id_field = await self._find_id_field()
        for status in (*_STATES, *_OUT):
            async for one in self._subscribers("members", status, _MEMBERS_PAGE, "/groups/{}/subscribers", list_id):
                fields = one.get("fields") or {}
                yield Member(
                    address=one["email"].lower(),
                    state=_STATES.get(one["status"], MemberState.OPTED_OUT),
                    first_name=fields.get("name") or "",
                    last_name=fields.get("last_name") or "",
                    id=fields.get(id_field),
                    provider_contact_id=one["email"].lower(),
                    how=_OUT.get(status, "unsubscribed"),
                )

    async def kept_out(self) -> AsyncIterator[Member]:
        # "List all subscribers" of MailerLite's reference; its longest page is said by clients alone: 100 (unverified).
        for status, how in _OUT.items():
            async for one in self._subscribers("kept_out", status, _PAGE, "/subscribers"):
                yield Member(one["email"].lower(), MemberState.OPTED_OUT, how=how)

    def _subscribers(self, operation: str, status: str, size: int, template: str, *parts: object) -> AsyncIterator[Any]:
        async def page_after(cursor: str | None) -> tuple[list[Any], str | None]:
            query: Query = {"filter[status]": status, "limit": size, **({"cursor": cursor} if cursor else {})}
            told = (await self.call(operation, "GET", template, *parts, query=query)).json()
            return told["data"], told["meta"].get("next_cursor")

        return by_cursor(page_after)

    def checks(self) -> Sequence[Check]:
        return (self._check_groups, self._check_field)

    async def _check_groups(self) -> Finding:
        answer = await self.call("groups", "GET", "/groups", query={"limit": 1})
        count = int((answer.json().get("meta") or {}).get("total") or 0)
        most = self.limits.lists or 0
        text = Message("the token works; the account has %(count)s of at most %(most)s groups", count=count, most=most)
        return Finding(
            count < most, text, None if count < most else Message("Delete groups that are not needed any more.")
        )

    async def _check_field(self) -> Finding:
        fields = await self._account_fields()
        if any(field["name"] == PLANFIX_ID for field in fields):
            return Finding(True, Message("the field %(field)s is there", field=PLANFIX_ID))
        if len(fields) < FIELDS_MAX:
            return Finding(True, Message("the field %(field)s will be made with the first contact", field=PLANFIX_ID))
        taken = Message("all %(count)s fields are taken: %(field)s cannot be made", count=FIELDS_MAX, field=PLANFIX_ID)
        return Finding(False, taken, Message("Delete a field that is not needed any more (Subscribers, Fields)."))

    # What the rest is made of

    async def _batch(self, operation: str, requests: Sequence[tuple[str, str]]) -> list[Answer]:
        """An answer to each of the requests, in order; that something is not there is an answer, too."""

        async def some(part: Sequence[tuple[str, str]]) -> list[Answer]:
            body = {"requests": [{"method": method, "path": path} for method, path in part]}
            whole = await self.call(operation, "POST", "/batch", json=body)
            told = whole.json()["responses"]
            if len(told) != len(part):
                raise Transient(f"{operation}: {len(told)} answers to {len(part)} requests")
            answers = [Answer(one["code"], whole.headers, json_body(one.get("body"))) for one in told]
            return [self._judged(answer, operation, [404], reads_json=True) for answer in answers]

        parts = await self.one_by_one(chunks(requests, BATCHED), some)
        return [answer for part in parts for answer in part]

    async def _account_fields(self) -> list[Any]:
        return list((await self.call("fields", "GET", "/fields", query={"limit": FIELDS_MAX})).json()["data"])

    async def _find_id_field(self) -> str | None:
        return next((field["key"] for field in await self._account_fields() if field["name"] == PLANFIX_ID), None)

    async def _make_id_field(self) -> str:
        body = {"name": PLANFIX_ID, "type": "text"}
        return str((await self.call("create_field", "POST", "/fields", json=body)).json()["data"]["key"])


def _row(contact: Contact, id_field: str) -> dict[str, Any]:
    return {"email": contact.address, "fields": name_fields(contact, "name", "last_name") | {id_field: contact.id}}


def _delivered(contact: Contact) -> Delivered:
    return Delivered(contact.address.lower())


def _kept_out(contact: Contact, record: Found | None) -> OptedOut | None:
    return OptedOut(record.opted_out, contact.address.lower()) if record and record.opted_out else None


def _has_ended(report: Mapping[str, Any]) -> bool:
    return bool(report["done"] or report.get("stopped_at"))


def _is_complete(report: Mapping[str, Any], count: int) -> bool:
    """Whether an import took everybody."""
    taken = sum(int(report.get(key) or 0) for key in ("imported", "updated", "unchanged_count"))
    return taken >= count and not any(report.get(f"{kind}_count") for kind in _LEFT_OUT)
