"""SendPulse, Bulk Email API: mailing lists, called address books there. Quirks: docs/providers/sendpulse.md."""

from base64 import b64encode
from collections.abc import AsyncIterator, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta

from providers.answers import CallRefused, ErrorTable
from providers.base import (
    BOUNCED,
    Capabilities,
    Contact,
    ContactRefused,
    Delivered,
    Finding,
    Limits,
    Member,
    MemberState,
    Message,
    OptedOut,
    Outcome,
    Proof,
    Reason,
    Rejected,
    Secret,
    Settings,
    Transient,
)
from providers.concurrency import chunks
from providers.http import Auth, ClientCredentials, HeaderAuth
from providers.jobs import Overdue, Polling, follow
from providers.names import name_fields
from providers.pace import Rate
from providers.paging import by_offset
from providers.plan import Found, for_the_rest
from providers.rest import Check, RestProvider

AT_ONCE: Final = 100  # addresses in one removal, by SendPulse's word; one look keeps to the same
PLANFIX_ID: Final = "planfix_id"
_PAGE: Final = 100
_EMAILS: Final = "/addressbooks/{}/emails"
_NOWHERE: Final = frozenset({17, 303, 502})  # codes of "no such address"

# The status of an address in one book: 0 new, 1 active; 7 and more are errors of delivery.
_WAITING: Final = frozenset({2, 3})  # for the person's confirmation
_OUT_OF_ALL: Final = 6
_OUT: Final = frozenset({4, 5, _OUT_OF_ALL})  # unsubscribed from the book, rejected, unsubscribed from all books

Statuses = Mapping[str, int]
"""An address's status in each book that has it, by the book's id."""


def _kept_out(list_id: str, statuses: Statuses, blacklisted: bool = False) -> str | None:
    """How an address is kept out of mail to a book, None when it is not."""
    here = statuses.get(list_id, 0)
    if blacklisted or here in _OUT or _OUT_OF_ALL in statuses.values():
        return "unsubscribed"
    return BOUNCED if here > _OUT_OF_ALL else None


class SendPulseSettings(Settings, frozen=True, kw_only=True):
    api_key: Annotated[Secret | None, Meta(description="an API key (Settings, API); or id and secret below")] = None
    client_id: Annotated[
        str | None, Meta(description="the account's ID (Settings, API), instead of an API key", examples=["0a1b2c3d"])
    ] = None
    client_secret: Annotated[Secret | None, Meta(description="the account's Secret, which belongs to the ID")] = None
    first_name: Annotated[str, Meta(min_length=1, description="variable that holds first names")] = "Name"
    last_name: Annotated[str, Meta(min_length=1, description="variable that holds last names")] = "LastName"

    def __post_init__(self) -> None:
        pair = (self.client_id is not None, self.client_secret is not None)
        if pair != ((False, False) if self.api_key else (True, True)):
            raise ValueError("give either `api_key`, or both `client_id` and `client_secret`")


class SendPulseProvider(RestProvider[SendPulseSettings]):
    """Address books. A contact is an address in a book, with variables and a status of its own there; a book forgets
    both with a removal, so who has unsubscribed stays in it. The address is the id."""

    name = "sendpulse"
    title = "SendPulse"
    settings_type = SendPulseSettings
    capabilities = Capabilities(
        list_is="a mailing list (address book)",
        renames_address=False,
        tells_opt_outs=False,  # of the blacklist, an upsert says nothing
        equal_names=False,
        takes_opt_outs=True,
        proof=Proof.OFFICIAL_SPEC,
    )
    limits = Limits(
        batch_size=500, parallel_calls=4, list_name_chars=200, calls="10 a second; 1,000 a minute on the free plan"
    )
    default_base_url = "https://api.sendpulse.com"
    errors = ErrorTable(
        codes=lambda body: [body.get("error_code")] if isinstance(body, dict) else [],
        by_code={
            203: Reason.NAME_TAKEN,
            213: Reason.LIST_GONE,
            703: Reason.LIST_GONE,
            708: Reason.PLAN_LIMIT,
            2020202020: Transient,
            3030303030: Reason.PLAN_LIMIT,
        },
        marks=frozenset({"error_code"}),
    )
    rates: ClassVar = {"": [Rate(8), Rate(1000, 60)]}
    key_advice = Message("Make an API key in SendPulse (Settings, API), or copy ID and Secret from there.")
    polling: ClassVar = Polling(first_s=2, longest_s=8, budget_s=14)  # until an address that was added is seen

    def auth(self) -> Auth:
        if self.settings.client_id and self.settings.client_secret:
            secret = self.settings.client_secret
            return ClientCredentials("/oauth/access_token", self.settings.client_id, secret, as_json=True)
        return HeaderAuth(self.settings.api_key or Secret(""), prefix="Bearer ")

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        async for book in self._pages("lists", "/addressbooks"):
            yield str(book["id"]), book["name"]

    async def has_list(self, list_id: str) -> bool:
        return (await self.call("list", "GET", "/addressbooks/{}", list_id, accept=[404])).status != 404

    async def create_list(self, name: str) -> str:
        return str((await self.call("create_list", "POST", "/addressbooks", json={"bookName": name})).json()["id"])

    async def delete_list(self, list_id: str) -> None:
        """Puts who has unsubscribed from the book on the blacklist first: their marks go with it."""
        if self.is_list(list_id):
            await self._put_on_blacklist([address async for address in self._out_in(list_id, _OUT)])
            await self.call("delete_list", "DELETE", "/addressbooks/{}", list_id, accept=[404])

    async def _out_in(self, list_id: str, statuses: Container[int]) -> AsyncIterator[str]:
        """The addresses of these statuses, none of which gets mail, in a book; nobody in one that is gone."""
        try:
            async for one in self._pages("opt_outs", _EMAILS, list_id, not_active=True):
                if int(one["status"]) in statuses:
                    yield one["email"].lower()
        except CallRefused as refused:
            if refused.reason is not Reason.LIST_GONE:
                raise

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        return await self._find(list_id, contacts, await self._blacklist())

    async def look_up_leaving(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        return await self._find(list_id, contacts, frozenset())  # which stays whatever leaves a book

    async def _find(self, list_id: str, contacts: Sequence[Contact], blacklist: Container[str]) -> list[Found | None]:
        known = await self._known([contact.known_by for contact in contacts])
        found: list[Found | None] = []
        for address in (contact.known_by.lower() for contact in contacts):
            statuses = known.get(address, {})
            how = _kept_out(list_id, statuses, address in blacklist)
            there = Found(address, address, how, on_list=list_id in statuses)
            found.append(there if how or there.on_list else None)
        return found

    async def _known(self, addresses: Sequence[str]) -> dict[str, Statuses]:
        """The statuses of addresses, in small letters; one that is in no book may be missing."""

        async def part(some: Sequence[str]) -> Mapping[str, Any]:
            try:
                told = (await self.call("look_up", "POST", "/emails", json={"emails": some})).json()
            except CallRefused as refused:
                if refused.code not in _NOWHERE:
                    raise
                if len(some) == 1:
                    return {}
                # Perhaps for one of them, and the others are known.
                middle = len(some) // 2
                return {**await part(some[:middle]), **await part(some[middle:])}
            if not isinstance(told, dict) and told != []:
                raise Transient("look_up: an answer of another shape")
            return told or {}  # nothing at all comes as an empty list

        parts = await self.one_by_one(chunks(addresses, AT_ONCE), part)
        return {
            address.lower(): {str(one["book_id"]): int(one["status"]) for one in books}
            for told in parts
            for address, books in told.items()
        }

    async def _blacklist(self) -> set[str]:
        return {str(address).lower() for address in (await self.call("blacklist", "GET", "/blacklist")).json()}

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """Looks at everybody first: that adding leaves opt-outs alone is SendPulse's advice, but not its specification.
        Who has not confirmed yet is left alone too."""
        known = await self._known([contact.address for contact in contacts])
        settled: dict[int, Outcome] = {}
        for index, contact in enumerate(contacts):
            statuses = known.get(contact.address.lower(), {})
            if how := _kept_out(list_id, statuses):
                settled[index] = OptedOut(how, contact.address.lower())
            elif statuses.get(list_id) in _WAITING:
                settled[index] = Delivered(contact.address.lower())
        there = {address for address, statuses in known.items() if list_id in statuses}
        return await for_the_rest(settled, contacts, lambda rest: self._add(list_id, rest, there))

    async def _add(self, list_id: str, contacts: Sequence[Contact], there: Container[str]) -> list[Outcome]:
        """Adds or updates addresses, and looks for those that were not there before: SendPulse says of none whether it
        took it."""
        names = self.settings.first_name, self.settings.last_name
        rows = [{"email": c.address, "variables": {PLANFIX_ID: c.id} | name_fields(c, *names)} for c in contacts]
        try:
            await self.call("add", "POST", _EMAILS, list_id, json={"emails": rows})
        except CallRefused as refused:
            if refused.status == 422:
                raise ContactRefused(detail=refused.detail) from refused
            raise
        missing = await self._missing(list_id, [c.address for c in contacts if c.address.lower() not in there])
        blacklist = await self._blacklist() if missing else set()
        refusal = Rejected(Reason.INVALID_ADDRESS, "SendPulse did not take the address")
        outcomes: list[Outcome] = []
        for address in (contact.address.lower() for contact in contacts):
            left_out = OptedOut(provider_contact_id=address) if address in blacklist else refusal
            outcomes.append(left_out if address in missing else Delivered(address))
        return outcomes

    async def _missing(self, list_id: str, addresses: Sequence[str]) -> set[str]:
        """Which of these are not in the book, in small letters; a new one may be seen some seconds later."""
        missing = {address.lower() for address in addresses}

        async def all_there() -> bool:
            known = await self._known(sorted(missing))
            missing.difference_update(a for a, statuses in known.items() if list_id in statuses)
            return not missing

        if missing and not await all_there():
            with suppress(Overdue):
                await follow(all_there, bool, self.polling)
        return missing

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        await self._put_on_blacklist(contact.address for contact in contacts)

    async def _put_on_blacklist(self, addresses: Iterable[str]) -> None:
        # With a comma, which separates them there, an address would be two others.
        for some in chunks((address for address in addresses if "," not in address), AT_ONCE):
            emails = b64encode(",".join(some).encode()).decode()
            body = {"emails": emails, "comment": "Unsubscribed elsewhere or under an earlier address (Planfix)"}
            await self.call("keep_out", "POST", "/blacklist", json=body)

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        """A removal would lose the mark of who is kept out: they stay in the book, and get no mail."""
        for some in chunks((r.address for r in records if r.on_list and not r.opted_out), AT_ONCE):
            try:
                await self.call("remove", "DELETE", _EMAILS, list_id, json={"emails": some}, accept=[404])
            except CallRefused as refused:
                if refused.code not in _NOWHERE:
                    raise

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        blacklist = await self._blacklist()
        async for one in self._pages("members", _EMAILS, list_id):
            address, status = one["email"].lower(), int(one["status"])
            told = one.get("variables")
            variables = told if isinstance(told, dict) else {}  # none at all come as an empty list
            how = _kept_out(list_id, {list_id: status}, address in blacklist)
            subscribed = MemberState.PENDING if status in _WAITING else MemberState.SUBSCRIBED
            yield Member(
                address=address,
                state=MemberState.OPTED_OUT if how else subscribed,
                first_name=str(variables.get(self.settings.first_name) or ""),
                last_name=str(variables.get(self.settings.last_name) or ""),
                id=str(variables[PLANFIX_ID]) if PLANFIX_ID in variables else None,
                provider_contact_id=address,
                how=how or "unsubscribed",
            )

    async def kept_out(self) -> AsyncIterator[Member]:
        """Whoever is on the blacklist, or out of all books by the word of any one: not every book has everybody."""
        for address in await self._blacklist():
            yield Member(address, MemberState.OPTED_OUT)
        async for list_id, _ in self.lists():
            async for address in self._out_in(list_id, {_OUT_OF_ALL}):
                yield Member(address, MemberState.OPTED_OUT)

    def checks(self) -> Sequence[Check]:
        return (self._check_lists, self._check_plan)

    async def _check_lists(self) -> Finding:
        books = [book async for book in self._pages("check", "/addressbooks")]
        held = [str(book["name"]) for book in books if int(book.get("status") or 0)]
        if not held:
            return Finding(True, Message("the key works; the account has %(count)s lists", count=len(books)))
        text = Message("SendPulse sends nothing to these lists: %(names)s", names=", ".join(held[:10]))
        return Finding(False, text, Message("Answer SendPulse's questions about them, which it asks in the account."))

    async def _check_plan(self) -> Finding:
        plan = (await self.call("check", "GET", "/user/balance/detail")).json().get("email") or {}
        most, count = int(plan.get("maximum_subscribers") or 0), int(plan.get("current_subscribers") or 0)
        if not most:
            return Finding(True, Message("the plan tells no limit of subscribers"))
        text = Message("%(count)s subscribers of the %(most)s that the plan allows", count=count, most=most)
        return Finding(count < most, text, None if count < most else Message("Take a larger plan at SendPulse."))

    # What the rest is made of

    def _pages(self, operation: str, template: str, *parts: object, **only: bool) -> AsyncIterator[Any]:
        """All items of a listing, or `only` those that a flag of it asks for."""

        async def page_at(offset: int) -> list[Any]:
            query = {"limit": _PAGE, "offset": offset, **only}
            return list((await self.call(operation, "GET", template, *parts, query=query)).json())

        return by_offset(page_at, _PAGE)
