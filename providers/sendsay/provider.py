"""Sendsay as a provider: what becomes of lists and contacts."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import count
from typing import Any, Final

from providers.answers import CallRefused
from providers.base import (
    Capabilities,
    Contact,
    Delivered,
    Limits,
    Member,
    MemberState,
    Outcome,
    Reason,
    Rejected,
    Transient,
)
from providers.concurrency import chunks
from providers.names import name_fields
from providers.paging import until_empty
from providers.plan import Found
from providers.rest import Check
from providers.sendsay.api import SendsayApi, SendsaySettings

REMOVED_AT_ONCE: Final = 1000
_PAGE: Final = 1000
_STOPPED: Final = {"aid": "member", "qid": "lockremove", "qid.type": "dt", "which": "dirtyS", "resp": None}
_WHO: Final = r"(member|subscriber|contact|email|address)"
_SAYS_UNKNOWN: Final = re.compile(
    rf"not[_ -]?(found|exist)|no[_ -]such|(unknown|absent)[_ /-]{_WHO}|{_WHO}\S*[_ /-](is[_ -])?(unknown|absent)",
    re.IGNORECASE,
)


class SendsayProvider(SendsayApi):
    """A contact is the account's and is on any number of lists. Who unsubscribed is on the stop list, by address, apart
    from contacts and lists: no call for those touches it, and Sendsay sends nothing to who is on it."""

    name = "sendsay"
    title = "Sendsay"
    settings_type = SendsaySettings
    capabilities = Capabilities(
        list_is="a list",
        renames_address=False,
        tells_opt_outs=False,
        equal_names=True,
        takes_opt_outs=True,
        unsupported=(
            "An address cannot be changed: the new one is a new contact, and the old one leaves the list.",
            "Sendsay adds contacts beyond the size of the plan unconfirmed and does not say so: they get no mail.",
        ),
    )
    limits = Limits(batch_size=5000, parallel_calls=2, list_name_chars=100)
    list_id_pattern = r"\w{1,64}"

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        for one in (await self.ask("group.list")).get("list") or ():
            if one.get("type", "list") == "list" and one.get("addr_type", "email") == "email":
                yield str(one["id"]), one["name"]

    async def has_list(self, list_id: str) -> bool:
        return list_id in {its_id async for its_id, _ in self.lists()}

    async def create_list(self, name: str) -> str:
        try:
            told = await self.ask("group.create", name=name, type="list", addr_type="email")
        except CallRefused as refused:  # whether names are unique is not documented
            await self.require_free(name, refused)
            raise
        list_id = told.get("id") or (told.get("obj") or {}).get("id") or await self.find_list(name)
        if not list_id:
            raise Transient("group.create: an answer without the id of the list")
        return str(list_id)

    async def delete_list(self, list_id: str) -> None:
        if not self.is_list(list_id):
            return
        try:
            await self.ask("group.delete", id=list_id)
        except CallRefused as refused:
            await self.require_gone(list_id, refused)

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        records = await self._records([contact.known_by for contact in contacts])
        return [
            record and Found(record.address, record.address, _how(record.raw), raw=record.raw) for record in records
        ]

    async def look_up_leaving(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        """Without a look at anybody: the stop list stays as it is when a contact leaves a list."""
        return [Found(contact.known_by.lower(), contact.known_by) for contact in contacts]

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        parts = chunks(contacts, self.settings.contacts_per_call)
        told = await self.one_by_one(parts, lambda part: self._put(list_id, part))
        return [outcome for part in told for outcome in part]

    async def _put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """The list is asked for along with it: what `member.set` says of one that is gone is not documented."""
        actions = [self._member_set(contact, list_id) for contact in contacts]
        group, *results = await self.batch("member.set", [{"action": "group.get", "id": list_id}, *actions])
        if refused := self.refused("group.get", group):
            await self.require_there(list_id, refused)
            raise refused
        outcomes: list[Outcome] = []
        for contact, result in zip(contacts, results, strict=True):
            error = self.refused("member.set", result)
            if not isinstance(result, dict):
                raise Transient("member.set: an answer of another shape")
            outcomes.append(
                Rejected(Reason.CONTACT_REFUSED, error.detail) if error else Delivered(contact.address.lower())
            )
        return outcomes

    def _member_set(self, contact: Contact, list_id: str | None) -> dict[str, Any]:
        """Sets the answers that are told and no others. A contact that is new must not be asked to confirm."""
        fields = name_fields(contact, self.settings.first_name, self.settings.last_name)
        if self.settings.planfix_id:
            fields[self.settings.planfix_id] = contact.id
        answers: list[list[object]] = [[key, "set", value] for key, value in fields.items()]
        if list_id:
            answers.append([f"-group.{list_id}", "set", 1])
        member = {"email": contact.address, "addr_type": "email", "newbie.confirm": 0, "datakey": answers}
        return {"action": "member.set", **member}

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        """Puts them on the stop list that the account manages (Заблокированы вручную), and makes them contacts of the
        account on no list: only a contact can be looked up, and may change its address again."""
        for some in chunks(contacts, max(1, self.settings.contacts_per_call // 2)):  # two actions for each
            stops = [{"action": "stoplist.add", "list": [contact.address]} for contact in some]
            known = [self._member_set(Contact(contact.id, contact.address), None) for contact in some]
            for number, result in enumerate(await self.batch("stoplist.add", [*stops, *known])):
                if (refused := self.refused("stoplist.add", result)) and number < len(stops):
                    raise refused

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        for some in chunks([record.address for record in records], REMOVED_AT_ONCE):
            try:
                told = await self.ask("group.clean", id=list_id, list=some, sync=1)
            except CallRefused as refused:
                await self.require_gone(list_id, refused)
                return
            if track := told.get("track.id"):  # worked off later in spite of `sync`
                await self.wait_for(track)

    # Reading

    async def _records(self, addresses: Sequence[str]) -> list[Found | None]:
        """The account's contacts, in order, None for who is none; `raw` is the record as Sendsay tells it."""

        async def some(part: Sequence[str]) -> list[Found | None]:
            actions = [{"action": "member.get", "email": address, "addr_type": "email"} for address in part]
            results = await self.batch("member.get", actions)
            return [self._record(address, result) for address, result in zip(part, results, strict=True)]

        parts = await self.one_by_one(chunks(addresses, self.settings.contacts_per_call), some)
        return [record for part in parts for record in part]

    def _record(self, address: str, result: Any) -> Found | None:
        if refused := self.refused("member.get", result):
            if _SAYS_UNKNOWN.search(refused.detail):
                return None
            raise refused
        record = result.get("obj", result) if isinstance(result, dict) else {}
        if not isinstance(record.get("member"), dict):
            raise Transient("member.get: a record that does not tell whether the contact is stopped")
        return Found(address.lower(), address.lower(), _how(record), raw=record)

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        """Their addresses page by page, and what is known of them some at a time."""
        await self.require_there(list_id)
        async for member in self._listed({"group": list_id}):
            yield member

    async def kept_out(self) -> AsyncIterator[Member]:
        """The contacts that are on a stop list; addresses that are no contacts are told by `stoplist.get`, whose form
        we could not find. The rule and `group.filter` stand in public PHP clients; that they go together is unverified,
        so each record is looked at, too."""
        async for member in self._listed({"group.filter": [_STOPPED], "addr_type": "email"}):
            if member.state is MemberState.OPTED_OUT:
                yield member

    async def _listed(self, which: Mapping[str, Any]) -> AsyncIterator[Member]:
        waiting: list[str] = []
        async for address in self._addresses(which):
            waiting.append(address)
            if len(waiting) == self.settings.contacts_per_call:
                for member in await self._members(waiting):
                    yield member
                waiting = []
        for member in await self._members(waiting):
            yield member

    async def _members(self, addresses: Sequence[str]) -> list[Member]:
        records = await self._records(addresses)
        return [self._member(record) for record in records if record]

    def _member(self, record: Found) -> Member:
        def answer(question: str | None) -> str:
            form, _, key = (question or "").rpartition(".")
            return str((record.raw.get(form) or {}).get(key) or "")

        state = MemberState.PENDING if record.raw["member"].get("lockconfirm") else MemberState.SUBSCRIBED
        return Member(
            address=record.address,
            state=MemberState.OPTED_OUT if record.opted_out else state,
            first_name=answer(self.settings.first_name),
            last_name=answer(self.settings.last_name),
            id=answer(self.settings.planfix_id) or None,
            provider_contact_id=record.id,
        )

    def _addresses(self, which: Mapping[str, Any]) -> AsyncIterator[str]:
        numbers = count(1)

        async def page_at(_: int) -> list[str]:
            order = {"sort": "member.email", "sort.order": "asc", "result": "response"}
            told = await self.ask("member.list", **which, page=next(numbers), pagesize=_PAGE, **order)
            return [_address_in(row) for row in told.get("list") or ()]

        return until_empty(page_at)

    def checks(self) -> Sequence[Check]:
        return (self.check_lists,)


def _how(raw: Any) -> str | None:
    """Whether a contact is kept out: its record then tells the day on which it unsubscribed or was stopped."""
    return "unsubscribed" if raw["member"].get("lockremove") else None


def _address_in(row: Any) -> str:
    """The address of a row of `member.list`, which is the address alone or holds it among other answers."""
    cells = row if isinstance(row, list) else list(row.values()) if isinstance(row, dict) else [row]
    return next(str(cell) for cell in cells if "@" in str(cell))
