"""Klaviyo (JSON:API, by revision): a Planfix list is a list. Quirks: docs/providers/klaviyo.md."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from providers.answers import Answer, CallRefused, addresses_in
from providers.base import (
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
    Transient,
    redact,
)
from providers.concurrency import chunks, chunks_within
from providers.http import Query, chunks_in_query, json_body
from providers.klaviyo.api import KlaviyoApi, KlaviyoSettings, has_ended
from providers.klaviyo.profiles import data_of, found_in, member_of, outcome_of, profile_of, record_of, weight_bytes
from providers.plan import Found, without_refused_rows
from providers.rest import Check

SINGLE_UP_TO: Final = 50  # contacts that go one by one: Klaviyo wants jobs for large numbers only
IMPORTED_AT_ONCE: Final = 10_000
IMPORT_MAX_BYTES: Final = 5_000_000 - 1000  # less the frame around the profiles
RELATED_AT_ONCE: Final = 1000  # profiles put on a list or taken off it
SUPPRESSED_AT_ONCE: Final = 100
LOOKED_UP_AT_ONCE: Final = 100  # a page
_LISTS_PAGE: Final = 10
_IMPORTS: Final = "/profile-bulk-import-jobs"
_SUBSCRIPTIONS: Final[Query] = {"additional-fields[profile]": "subscriptions"}
# Each suppression has a date; the filter is an example in the changelog of klaviyo-api, 6.0.0.
_EVER_SUPPRESSED: Final = "greater-than(subscriptions.email.marketing.suppression.timestamp,1970-01-01T00:00:00Z)"
# Klaviyo's guide to its Profiles API: "Get excluded profiles by list ID"; the operator is of the reference.
_LEFT: Final = 'equals(subscriptions.email.marketing.list_suppressions.list_id,"{}")'
_ROW: Final = re.compile(rb"/profiles/data/(\d+)")


class KlaviyoProvider(KlaviyoApi):
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
    key_advice = Message(
        "Make a private API key in Klaviyo (Settings, API keys) with full access to lists and profiles and to"
        " subscriptions. If Klaviyo says that the revision is gone, install a newer bridge."
    )

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        async for one in self.pages("lists", "/lists", size=_LISTS_PAGE):
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
            async for profile in self.pages("find", "/profiles", query=query):
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
        try:
            async with self.job(list_id, contacts) as known_as:
                started = await self.call("import", "POST", _IMPORTS, json=body, bucket="lists")
                await known_as(started.json()["data"]["id"])
                job = await self.done(started, _IMPORTS)
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

    async def has_ended(self, list_id: str, job_id: str) -> bool:
        return has_ended(await self.look_at(_IMPORTS, job_id))

    async def _failed(self, job_id: str) -> dict[str, Rejected]:
        """Whom an import left out and why, by address."""
        named: dict[str, Rejected] = {}
        async for error in self.pages("import_errors", _IMPORTS + "/{}/import-errors", job_id):
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
                await self.done(await self.call("keep_out", "POST", path, json=body), path)
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
        """Those who left the list by their own word come last: they are on it no more. Who was put on it again stays
        out, and is told once."""
        await self.require_there(list_id)
        out: set[str] = set()
        async for profile in self.pages("members", "/lists/{}/profiles", list_id, query=_SUBSCRIPTIONS):
            if profile["attributes"].get("email"):  # who is known by telephone only is none of ours
                member = member_of(list_id, profile)
                if member.state is MemberState.OPTED_OUT:
                    out.add(member.address)
                yield member
        async for member in self._out("members", list_id, _LEFT.format(list_id)):
            if member.address not in out:
                yield member

    def kept_out(self) -> AsyncIterator[Member]:
        return self._out("kept_out", None, _EVER_SUPPRESSED)

    async def _out(self, operation: str, list_id: str | None, which: str) -> AsyncIterator[Member]:
        """Who is out of a list, or of all mail where none is named, among the profiles of a filter."""
        query: Query = {"filter": which, **_SUBSCRIPTIONS}
        async for profile in self.pages(operation, "/profiles", query=query):
            if profile["attributes"].get("email"):
                member = member_of(list_id, profile)
                if member.state is MemberState.OPTED_OUT:
                    yield member

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
