"""Klaviyo (JSON:API, by revision): a Planfix list is a list. Quirks: docs/providers/klaviyo.md."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

from msgspec import Meta

from providers.answers import Answer, CallRefused, ErrorTable, addresses_in
from providers.base import (
    AuthFailed,
    Capabilities,
    Contact,
    ContactRefused,
    Delivered,
    Finding,
    Limits,
    Member,
    MemberState,
    Message,
    Outcome,
    Proof,
    Reason,
    Rejected,
    Secret,
    Settings,
    Transient,
    redact,
)
from providers.concurrency import chunks, chunks_within
from providers.http import Auth, HeaderAuth, Query, chunks_in_query, json_body
from providers.jobs import Polling, follow
from providers.klaviyo.profiles import PLANFIX_ID, data_of, found_in, outcome_of, profile_of, record_of, weight_bytes
from providers.pace import Rate
from providers.paging import by_cursor
from providers.plan import Found, without_refused_rows
from providers.rest import Check, RestProvider

SINGLE_UP_TO: Final = 50  # contacts that go one by one: Klaviyo wants jobs for large numbers only
IMPORTED_AT_ONCE: Final = 10_000
IMPORT_MAX_BYTES: Final = 5_000_000 - 1000  # less the frame around the profiles
RELATED_AT_ONCE: Final = 1000  # profiles put on a list or taken off it
SUPPRESSED_AT_ONCE: Final = 100
LOOKED_UP_AT_ONCE: Final = 100  # a page
_PAGE: Final = 100
_LISTS_PAGE: Final = 10
_SUBSCRIPTIONS: Final[Query] = {"additional-fields[profile]": "subscriptions"}
_ROW: Final = re.compile(rb"/profiles/data/(\d+)")


class KlaviyoSettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[Secret, Meta(description="a private API key, pk_... (Settings, API keys)")]


class KlaviyoProvider(RestProvider[KlaviyoSettings]):
    """Lists. A profile is the account's and is on any number of lists; being on a list and being allowed to be mailed
    are two things, and the bridge changes only the first. The address is the id: imports tell no other."""

    name = "klaviyo"
    title = "Klaviyo"
    settings_type = KlaviyoSettings
    capabilities = Capabilities(
        list_is="a list",
        renames_address=True,
        tells_opt_outs=False,
        equal_names=True,
        asynchronous=True,
        takes_opt_outs=True,
        unsupported=(
            "The bridge gives no consent to be mailed: Klaviyo's call for it lifts unsubscriptions and complaints. Who"
            " never subscribed gets what Klaviyo sends to profiles that are not suppressed.",
        ),
        proof=Proof.OFFICIAL_SPEC,
    )
    limits = Limits(
        batch_size=IMPORTED_AT_ONCE,
        parallel_calls=8,
        list_name_chars=100,
        calls="75 a second and 750 a minute; 10 and 150 for lists and imports; 150 new lists a day",
    )
    list_id_pattern = r"[A-Za-z0-9]{1,64}"
    default_base_url = "https://a.klaviyo.com/api"
    headers: ClassVar = {
        "Accept": "application/vnd.api+json",
        "Content-Type": "application/vnd.api+json",
        "revision": "2026-07-15",
    }
    errors = ErrorTable(
        codes=lambda body: [error["code"] for error in body["errors"]],
        by_status={410: AuthFailed},  # this revision has ended: changes are kept until the bridge is newer
        marks=frozenset({"errors"}),
    )
    rates: ClassVar = {"": [Rate(75), Rate(700, 60)], "lists": [Rate(10), Rate(150, 60)]}
    key_advice = Message(
        "Make a private API key in Klaviyo (Settings, API keys) with full access to lists and profiles and to"
        " subscriptions. If Klaviyo says that the revision is gone, install a newer bridge."
    )
    polling: ClassVar = Polling(first_s=2, longest_s=30, budget_s=1800)

    def __init__(self, settings: KlaviyoSettings) -> None:
        super().__init__(settings)

    def auth(self) -> Auth:
        return HeaderAuth(self.settings.api_key, prefix="Klaviyo-API-Key ")

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        async for one in self._pages("lists", "/lists", size=_LISTS_PAGE):
            yield one["id"], one["attributes"]["name"]

    async def has_list(self, list_id: str) -> bool:
        return (await self.call("list", "GET", "/lists/{}", list_id, accept=[404])).status != 404

    async def create_list(self, name: str) -> str:
        body = data_of("list", {"name": name, "opt_in_process": "single_opt_in"})
        answer = await self.call("create_list", "POST", "/lists", json=body, bucket="lists")
        return str(answer.json()["data"]["id"])

    async def delete_list(self, list_id: str) -> None:
        if self.is_list(list_id):
            await self.call("delete_list", "DELETE", "/lists/{}", list_id, accept=[404], bucket="lists")

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        return await self._look_up(contacts, _SUBSCRIPTIONS, lambda profile: found_in(list_id, profile))

    async def look_up_leaving(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        return await self._look_up(contacts, {}, record_of)  # who leaves a list stays suppressed

    async def _look_up(
        self, contacts: Sequence[Contact], also: Query, read: Callable[[Any], Found]
    ) -> list[Found | None]:
        # Whether Klaviyo's filter minds the case is not documented: it is asked for both.
        asked = dict.fromkeys(form for c in contacts for form in (c.known_by.lower(), c.known_by))
        found: dict[str, Found] = {}

        async def some(addresses: Sequence[str]) -> None:
            query: Query = {"filter": f"any(email,{json_body(addresses).decode()})", **also}
            async for profile in self._pages("find", "/profiles", query=query):
                record = read(profile)
                found[record.address.lower()] = record

        await self.one_by_one(chunks_in_query(asked, LOOKED_UP_AT_ONCE), some)
        return [found.get(contact.known_by.lower()) for contact in contacts]

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        if len(contacts) <= SINGLE_UP_TO:
            return await self._put_singly(list_id, contacts)
        outcomes: list[Outcome] = []
        for part in chunks_within(contacts, IMPORTED_AT_ONCE, weight_bytes, IMPORT_MAX_BYTES):
            outcomes += await self._import(list_id, part)
        return outcomes

    async def _put_singly(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """Each profile by a call of its own, which tells whether it may be mailed; then those who may onto the list."""
        told = await self.one_by_one(contacts, lambda contact: self._upsert(list_id, contact))
        going = [record.id for record in told if isinstance(record, Found) and not record.opted_out]
        try:
            await self._relate(list_id, "POST", going)
        except CallRefused as refused:
            await self.require_there(list_id, refused)
            if refused.status == 404:
                raise Transient("a profile went while it was put on a list") from refused
            raise
        return [
            outcome_of(contact, record) if isinstance(record, Found) else record
            for contact, record in zip(contacts, told, strict=True)
        ]

    async def _upsert(self, list_id: str, contact: Contact) -> Found | Rejected:
        body = {"data": profile_of(contact)}
        try:
            answer = await self.call("upsert", "POST", "/profile-import", json=body, query=_SUBSCRIPTIONS)
        except CallRefused as refused:
            if refused.status not in (400, 409):
                raise
            of_address = b"/email" in refused.answer.body
            return Rejected(Reason.INVALID_ADDRESS if of_address else Reason.CONTACT_REFUSED, refused.detail)
        return found_in(list_id, answer.json()["data"])

    async def _import(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        body = data_of("profile-bulk-import-job", {"profiles": {"data": [profile_of(contact) for contact in contacts]}})
        body["data"]["relationships"] = {"lists": {"data": [{"type": "list", "id": list_id}]}}
        path = "/profile-bulk-import-jobs"
        try:
            async with self.job(list_id, contacts):
                job = await self._done(await self.call("import", "POST", path, json=body, bucket="lists"), path)
        except CallRefused as refused:
            await self.require_there(list_id, refused)
            if refused.status != 400:
                raise
            return await without_refused_rows(refused, _ROW, contacts, lambda others: self._import(list_id, others))
        failed = int(job["attributes"].get("failed_count") or 0)
        done = job["attributes"].get("completed_count")
        if done is not None and int(done) + failed < len(contacts):
            raise ContactRefused(
                detail=f"an import of {len(contacts)} profiles that did {done} and failed for {failed}"
            )
        named = await self._failed(job["id"]) if failed else {}
        wrong = {i: named[a] for i, contact in enumerate(contacts) if (a := contact.address.lower()) in named}
        if len(wrong) < failed:
            await self.require_there(list_id)
            raise ContactRefused(detail=f"an import left out {failed} profiles and named {len(wrong)}")
        return [wrong.get(index) or Delivered(contact.address.lower()) for index, contact in enumerate(contacts)]

    async def _failed(self, job_id: str) -> dict[str, Rejected]:
        """Whom an import left out and why, by address."""
        named: dict[str, Rejected] = {}
        async for error in self._pages("import_errors", "/profile-bulk-import-jobs/{}/import-errors", job_id):
            told = error["attributes"]
            about = Answer(200, {}, json_body(told.get("original_payload")))
            named |= dict.fromkeys(
                addresses_in(about), Rejected(Reason.CONTACT_REFUSED, redact(f"{told['code']}: {told['detail']}"))
            )
        return named

    async def rename(self, list_id: str, record: Found, contact: Contact) -> bool:
        body = data_of("profile", {"email": contact.address}, record.id)
        answer = await self.call("rename", "PATCH", "/profiles/{}", record.id, json=body, accept=[400, 404, 409])
        return answer.ok

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        """By suppression, which makes a profile for who has none."""
        path = "/profile-suppression-bulk-create-jobs"

        async def suppress(some: Sequence[Contact]) -> list[Outcome]:
            people = [{"type": "profile", "attributes": {"email": contact.address}} for contact in some]
            body = data_of("profile-suppression-bulk-create-job", {"profiles": {"data": people}})
            try:
                await self._done(await self.call("keep_out", "POST", path, json=body), path)
            except CallRefused as refused:
                if refused.status != 400:
                    raise
                return await without_refused_rows(refused, _ROW, some, suppress)
            return [Delivered()] * len(some)

        await self.one_by_one(chunks(contacts, SUPPRESSED_AT_ONCE), suppress)

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        await self._relate(list_id, "DELETE", [record.id for record in records])

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        async for profile in self._pages("members", "/lists/{}/profiles", list_id, query=_SUBSCRIPTIONS):
            told = profile["attributes"]
            if told.get("email"):  # who is known by telephone only is none of ours
                yield Member(
                    address=told["email"].lower(),
                    state=MemberState.OPTED_OUT if found_in(list_id, profile).opted_out else MemberState.SUBSCRIBED,
                    first_name=told.get("first_name") or "",
                    last_name=told.get("last_name") or "",
                    id=(told.get("properties") or {}).get(PLANFIX_ID),
                    provider_contact_id=told["email"].lower(),
                )

    def checks(self) -> Sequence[Check]:
        return (self._check_lists, self._check_profiles)

    async def _check_lists(self) -> Finding:
        await self.call("lists", "GET", "/lists", query={"page[size]": 1})
        return Finding(True, Message("the key works and may read lists"))

    async def _check_profiles(self) -> Finding:
        await self.call("find", "GET", "/profiles", query={"page[size]": 1, **_SUBSCRIPTIONS})
        return Finding(True, Message("the key may read profiles; what it may write shows only with the first change"))

    # What the rest is made of

    async def _relate(self, list_id: str, method: str, profile_ids: Sequence[str]) -> None:
        """Puts profiles on a list (POST) or takes them off it (DELETE), by their ids."""
        path = "/lists/{}/relationships/profiles"
        for some in chunks(profile_ids, RELATED_AT_ONCE):
            body = {"data": [{"type": "profile", "id": profile_id} for profile_id in some]}
            accept = [404] if method == "DELETE" else []
            answer = await self.call("relate", method, path, list_id, json=body, accept=accept, bucket="lists")
            if answer.status == 404 and len(some) > 1 and await self.has_list(list_id):
                # Somebody of them is gone, and nobody says that the others went off the list.
                await self.one_by_one(some, lambda profile_id: self._relate(list_id, method, [profile_id]))

    async def _done(self, started: Answer, path: str) -> Any:
        """A job that was started, as it is at its end."""
        job_id = started.json()["data"]["id"]

        async def look() -> Any:
            return (await self.call("job", "GET", path + "/{}", job_id, bucket="lists")).json()["data"]

        job = await follow(look, lambda told: told["attributes"]["status"] in ("complete", "cancelled"), self.polling)
        if job["attributes"]["status"] != "complete":
            raise Transient("a job of Klaviyo was cancelled")
        return job

    def _pages(
        self, operation: str, template: str, *parts: object, size: int = _PAGE, query: Query | None = None
    ) -> AsyncIterator[Any]:
        async def page_after(cursor: str | None) -> tuple[list[Any], str | None]:
            asked: dict[str, Any] = {"page[size]": size, **(query or {})}
            if cursor is not None:
                asked["page[cursor]"] = cursor
            told = (await self.call(operation, "GET", template, *parts, query=asked)).json()
            following = parse_qs(urlsplit((told.get("links") or {}).get("next") or "").query)
            return told["data"], following.get("page[cursor]", [None])[0]

        return by_cursor(page_after)
