"""SendGrid: one list of Marketing Campaigns per Planfix list. Quirks: docs/providers/sendgrid.md."""

from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import chain
from typing import Annotated, Literal

import msgspec

from providers.base import (
    Capabilities,
    Contact,
    ContactRefused,
    Delivered,
    Finding,
    Limits,
    Member,
    MemberState,
    OptedOut,
    Outcome,
    Proof,
    Reason,
    Refused,
    Rejected,
    Secret,
    Settings,
    Transient,
)
from providers.concurrency import chunks, together
from providers.jobs import Polling
from providers.sdk import SdkProvider
from providers.sendgrid.account import CHUNK, FIELD, Account, OptOuts
from providers.sendgrid.answers import Job
from providers.sendgrid.checks import LISTS_MAX, check
from providers.sendgrid.client import CallRefused, RightsMissing, SendgridApi
from providers.sendgrid.contacts import (
    BATCH_SIZE,
    NAME_CHARS,
    PLAN_LIMIT_WORDS,
    Outcomes,
    Rows,
    all_addresses,
    earlier_addresses,
    is_list_id,
    named_in,
    parts_of,
    reported_in,
    row_of,
    somebody_in,
)

ROUNDS = 20  # upserts of one part, each without the contacts that the one before named as bad
LONGEST_POLL_S = 60.0


class SendgridSettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[
        Secret, msgspec.Meta(description="API key (SG.…) with full access to Marketing and Suppressions")
    ]
    unknown_opt_outs: Annotated[
        Literal["keep_out", "add"],
        msgspec.Meta(
            description="what to do with a changed address when the key may not read whether the old one opted out"
        ),
    ] = "keep_out"
    job_timeout_s: Annotated[
        float, msgspec.Meta(gt=0, le=86_400, description="how long a job of SendGrid is followed before it is repeated")
    ] = 900.0


class SendgridProvider(SdkProvider[SendgridSettings]):
    """Lists of Marketing Campaigns; contacts are the account's and are on any number of lists."""

    name = "sendgrid"
    title = "SendGrid"
    settings_type = SendgridSettings
    capabilities = Capabilities(
        list_is="a list of Marketing Campaigns",
        renames_address=False,
        tells_opt_outs=False,
        equal_names=False,
        asynchronous=True,
        takes_opt_outs=True,
        proof=Proof.OFFICIAL_SPEC,
    )
    # SendGrid publishes no limit on parallel calls. Bulk calls leave little to gain from more than a few.
    limits = Limits(
        batch_size=BATCH_SIZE, parallel_calls=4, list_name_chars=100, name_chars=NAME_CHARS, lists=LISTS_MAX
    )

    first_poll_s = 0.5

    def __init__(self, settings: SendgridSettings) -> None:
        super().__init__(settings)
        self._api = SendgridApi(
            settings.api_key.reveal(),
            base_url=settings.base_url,
            timeout_s=settings.timeout_s,
            connections=self.parallel_calls,
        )
        polling = Polling(self.first_poll_s, longest_s=LONGEST_POLL_S, budget_s=settings.job_timeout_s)
        self._account = Account(self._api, self.call, polling)

    async def close(self) -> None:
        await super().close()
        self._api.close()

    async def room_for_lists(self) -> int:
        return max(0, LISTS_MAX - len(await self._account.lists()))

    async def find_list(self, name: str) -> str | None:
        return next((one.id for one in await self._account.lists() if one.name == name), None)

    async def create_list(self, name: str) -> str:
        try:
            return await self._account.create_list(name)
        except CallRefused as refused:
            if refused.status != 400:
                raise
            # The texts of these refusals are not documented, so the lists themselves are asked.
            lists = await self._account.lists()
            if any(one.name.casefold() == name.casefold() for one in lists):
                raise Refused(Reason.NAME_TAKEN, refused.detail) from refused
            if len(lists) >= LISTS_MAX:
                raise Refused(Reason.LIST_LIMIT, refused.detail) from refused
            raise

    async def delete_list(self, list_id: str) -> None:
        if not is_list_id(list_id):
            return
        try:
            await self._account.delete_list(list_id)
        except CallRefused as refused:
            if refused.status != 404:
                raise

    async def upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        if not is_list_id(list_id):
            raise Refused(Reason.LIST_GONE, "no id of a SendGrid list")
        field_id = await self._account.field_id()
        batch = {contact.address.lower(): contact for contact in contacts}
        earlier = {address: earlier_addresses(contact) for address, contact in batch.items()}

        waiting = await self.under_way.waiting(list_id, list(earlier.values()), self._account.has_ended)
        outcomes: Outcomes = {address: waits for address, waits in zip(earlier, waiting, strict=True) if waits}
        moved = {address: old for address, old in earlier.items() if old and address not in outcomes}
        outcomes |= await self._keep_out(moved)

        rows = {address: row_of(c, field_id) for address, c in batch.items() if address not in outcomes}
        for part in parts_of(rows):
            outcomes |= await self._upsert_part(list_id, part)

        left = {
            old: batch[address]
            for address in moved
            if isinstance(outcomes[address], Delivered | OptedOut) and not batch[address].keep_old
            for old in moved[address]
            if old not in batch
        }
        await self._leave(list_id, left)
        return [outcomes[address] for address in batch]

    async def remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        if not is_list_id(list_id):
            return [Delivered()] * len(contacts)
        addresses = [all_addresses(contact) for contact in contacts]
        waiting = await self.under_way.waiting(list_id, addresses, self._account.has_ended)
        found = await self._account.search(
            address for some, waits in zip(addresses, waiting, strict=True) if not waits for address in some
        )
        # Membership as the search tells it may be older than the last upsert, so it is not asked.
        await self._take_off(list_id, [one.id for one in found.values()])
        return [waits or Delivered() for waits in waiting]

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        await self._account.opt_out(None, [contact.address.lower() for contact in contacts])

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        """Made from an export, which SendGrid prepares for seconds to minutes. Needs the right to read suppressions:
        without it nobody could tell who opted out."""
        if not is_list_id(list_id) or not await self._account.has_list(list_id):
            raise Refused(Reason.LIST_GONE, "no such list")
        out = await self._account.kept_out()
        async for row in self._account.export(list_id):
            address = row.get("email", "").lower()
            if address:
                yield Member(
                    address=address,
                    state=MemberState.OPTED_OUT if address in out else MemberState.SUBSCRIBED,
                    first_name=row.get("first_name", ""),
                    last_name=row.get("last_name", ""),
                    id=row.get(FIELD) or None,
                    provider_contact_id=address,
                    how=out.get(address, "unsubscribed"),
                )

    async def kept_out(self) -> AsyncIterator[Member]:
        for address, how in (await self._account.kept_out()).items():
            yield Member(address, MemberState.OPTED_OUT, how=how)

    # Upsert

    async def _upsert_part(self, list_id: str, part: Rows) -> Outcomes:
        outcomes: Outcomes = {}
        failed_before = False
        for _ in range(ROUNDS):
            if not part:
                return outcomes
            try:
                job = await self._upsert_job(list_id, part)
            except CallRefused as refused:
                bad = named_in(refused, list(part))
                if not bad:
                    return outcomes | await self._nobody_named(list_id, part, refused)
                outcomes |= bad
                part = {address: row for address, row in part.items() if address not in bad}
                continue
            if job.status == "failed" and job.errors_url is None and not failed_before:
                failed_before = True
                continue
            return outcomes | await self._outcomes_of(list_id, part, job)
        raise ContactRefused(detail=f"SendGrid still names bad contacts after {ROUNDS} rounds")

    async def _upsert_job(self, list_id: str, part: Rows) -> Job:
        """Puts the part and follows its job."""
        async with self.under_way.job(list_id, part, 2 * self.settings.job_timeout_s) as known_as:
            job_id = await self._account.put(list_id, list(part.values()))
            await known_as(job_id)
            return await self._account.follow(job_id)

    async def _outcomes_of(self, list_id: str, part: Rows, job: Job) -> Outcomes:
        if job.status == "completed":
            return {address: Delivered(address) for address in part}
        report = await self._account.download(job.errors_url) if job.errors_url else ""
        bad = reported_in(report, part)
        everybody = job.status == "failed"
        if len(bad) < (len(part) if everybody else min(job.errored_count, len(part))):
            if everybody and PLAN_LIMIT_WORDS in report.lower():
                raise Refused(Reason.PLAN_LIMIT, "the plan of the SendGrid account holds no more contacts")
            if not await self._account.has_list(list_id):
                raise Refused(Reason.LIST_GONE, "no such list")
            return somebody_in(part, f"the upsert job ended as {job.status}")
        return {address: bad.get(address) or Delivered(address) for address in part}

    async def _nobody_named(self, list_id: str, part: Rows, refused: CallRefused) -> Outcomes:
        """What a refusal means that names no contact."""
        if refused.says(PLAN_LIMIT_WORDS):
            raise Refused(Reason.PLAN_LIMIT, refused.detail) from refused
        if not await self._account.has_list(list_id):
            raise Refused(Reason.LIST_GONE, refused.detail) from refused
        if await self._account.field_is_gone():
            raise Transient(f"the custom field {FIELD} was deleted; it is made again") from refused
        if refused.status not in (400, 413):
            raise refused
        return somebody_in(part, refused.detail)

    # A changed address

    async def _keep_out(self, moved: dict[str, list[str]]) -> Outcomes:
        """Carries the opt-outs of earlier addresses to the new ones: suppressions are by address, so the new address
        would get the mail that the person refused. Outcomes of those who must not be put on the list."""
        may_not = Rejected(Reason.CONTACT_REFUSED, "the API key may not read or copy the opt-outs of the old address")
        try:
            told = await together(self._account.opt_outs(old) for old in chain.from_iterable(moved.values()))
        except RightsMissing:
            return {} if self.settings.unknown_opt_outs == "add" else dict.fromkeys(moved, may_not)
        by_old = dict(zip(chain.from_iterable(moved.values()), told, strict=True))
        groups: dict[int | None, list[str]] = {}
        out: Outcomes = {}
        for address, olds in moved.items():
            opt_outs = OptOuts()
            for old in olds:
                opt_outs |= by_old[old]
            for group in [*opt_outs.groups, *([None] if opt_outs.everywhere else [])]:
                groups.setdefault(group, []).append(address)
            if opt_outs:
                out[address] = OptedOut(provider_contact_id=address)
        try:
            for group, addresses in groups.items():
                await self._account.opt_out(group, addresses)
        except RightsMissing:
            return dict.fromkeys(out, may_not)
        return out

    async def _leave(self, list_id: str, left: dict[str, Contact]) -> None:
        """Takes earlier addresses off the list, and out of the account where only this Planfix contact had them."""
        found = await self._account.search(left)
        ours = [
            one.id
            for address, one in found.items()
            if not set(one.list_ids or ()) - {list_id} and self._account.planfix_id(one) == left[address].id
        ]
        await self._take_off(list_id, [one.id for one in found.values() if one.id not in ours])
        for chunk in chunks(ours, CHUNK):
            await self._account.finish(await self._account.delete_contacts(chunk))

    async def _take_off(self, list_id: str, contact_ids: Iterable[str]) -> None:
        await together(self._take_chunk_off(list_id, chunk) for chunk in chunks(contact_ids, CHUNK))

    async def _take_chunk_off(self, list_id: str, contact_ids: list[str]) -> None:
        try:
            job_id = await self._account.take_off(list_id, contact_ids)
        except CallRefused as refused:
            if refused.status != 404:
                raise
            if await self._account.has_list(list_id):
                raise Transient("a contact was deleted between its search and its removal") from refused
            return
        await self._account.finish(job_id)

    async def check(self) -> list[Finding]:
        return await check(self._account, self.settings.unknown_opt_outs)
