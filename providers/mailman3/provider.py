"""GNU Mailman 3 core, its REST API 3.1: the mailing lists of one mail domain. Quirks: docs/providers/mailman3.md."""

import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Final

from msgspec import Meta

from providers.answers import CallRefused, ErrorTable
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
    Postponed,
    Proof,
    Reason,
    Refused,
    Rejected,
    Secret,
    Settings,
)
from providers.http import Auth, BasicAuth
from providers.mailman3.roster import BANNED, INVALID, PAGE, Roster, Seen
from providers.names import joined, slug
from providers.paging import by_page
from providers.plan import Found
from providers.rest import Check, RestProvider

OLDEST_VERSION: Final = (3, 3, 3)  # the first whose addresses can be given another name
PENDING_S: Final = 3600.0  # after which a contact is tried again whose own wish to join is not confirmed yet

_REFUSALS: Final[Mapping[object, Outcome]] = {
    BANNED: OptedOut("banned"),
    INVALID: Rejected(Reason.INVALID_ADDRESS, "Mailman takes no such address"),
    "List posting address cannot subscribe": Rejected(Reason.INVALID_ADDRESS, "it is the address of the list itself"),
    "Subscription request already pending": Postponed(
        PENDING_S, Reason.CONTACT_REFUSED, "the person has asked to join and not confirmed yet"
    ),
}


class Mailman3Settings(Settings, frozen=True, kw_only=True):
    base_url: Annotated[
        str | None,
        Meta(description="where the core's REST server listens", examples=["http://localhost:8001"]),
    ] = None
    domain: Annotated[
        str,
        Meta(
            min_length=1,
            description="mail domain of the lists; Mailman must have it already",
            examples=["lists.example.com"],
        ),
    ]
    user: Annotated[str, Meta(min_length=1, description="admin_user under [webservice] in mailman.cfg")] = "restadmin"
    password: Annotated[Secret, Meta(description="admin_pass under [webservice] in mailman.cfg")]


class Mailman3Provider(RestProvider[Mailman3Settings]):
    """Mailing lists of one mail domain, with a mark beside every membership (`providers.mailman3.roster`). The address
    is the id: it outlives the membership."""

    name = "mailman3"
    title = "GNU Mailman 3"
    settings_type = Mailman3Settings
    capabilities = Capabilities(
        list_is="a mailing list of the mail domain",
        renames_address=False,
        tells_opt_outs=True,
        equal_names=False,
        takes_opt_outs=True,
        one_name=True,
        unsupported=("an address beyond ASCII is refused by Mailman; it is reported as a problem",),
        proof=Proof.REAL_SERVER,
    )
    limits = Limits(
        batch_size=500,  # take about 20 s
        parallel_calls=2,  # more at one time are slower: two processes answer, and SQLite writes one by one
        list_name_chars=255,  # of a column in MySQL; so are names
        name_chars=255,
        calls="no limit; 10 to 30 contacts a second can be put on a list",
    )
    list_id_pattern = r"[^\s/@]+\.[^\s/@]+"
    default_base_url = "http://localhost:8001"
    errors = ErrorTable(
        codes=lambda body: [body["description"].partition(":")[0]], by_code={"No such list": Reason.LIST_GONE}
    )
    key_advice = Message("Look at admin_user and admin_pass under [webservice] in mailman.cfg.")

    def __init__(self, settings: Mailman3Settings) -> None:
        super().__init__(settings)
        self._roster = Roster(self)

    def auth(self) -> Auth:
        return BasicAuth(self.settings.user, self.settings.password)

    # Lists

    async def lists(self) -> AsyncIterator[tuple[str, str]]:
        async for one in self._pages("lists", "/3.1/domains/{}/lists", self.settings.domain):
            yield one["list_id"], one.get("display_name") or ""

    def _pages(self, operation: str, template: str, *parts: str) -> AsyncIterator[Any]:
        async def page(number: int) -> list[Any]:
            answer = await self.call(operation, "GET", template, *parts, query={"count": PAGE, "page": number})
            return answer.json().get("entries") or []

        return by_page(page, PAGE)

    async def has_list(self, list_id: str) -> bool:
        return (await self.call("list", "GET", "/3.1/lists/{}", list_id, accept=[404])).status != 404

    async def create_list(self, name: str) -> str:
        """The list's address follows from the name: a repeat after a lost answer meets the same list."""
        local_part = _local_part(name)
        list_id = f"{local_part}.{self.settings.domain}"
        body = {"fqdn_listname": f"{local_part}@{self.settings.domain}", "style_name": "legacy-announce"}
        try:
            await self.call("create_list", "POST", "/3.1/lists", json=body)
        except CallRefused as refused:
            if refused.code != "Mailing list exists":
                raise
            known_as = (await self.call("list", "GET", "/3.1/lists/{}", list_id)).json().get("display_name")
            if known_as not in (None, local_part.capitalize()):  # it was finished, and perhaps renamed since
                raise Refused(Reason.NAME_TAKEN, "a list of this name is there") from refused
        # A new list is open: by its defaults members' mail goes to all of them, under "[Pf-…]" in every subject.
        config = {"display_name": name, "subject_prefix": "", "advertised": False, "default_member_action": "hold"}
        await self.call("configure_list", "PATCH", "/3.1/lists/{}/config", list_id, json=config)
        return list_id

    async def delete_list(self, list_id: str) -> None:
        if self.is_list(list_id):
            await self.call("delete_list", "DELETE", "/3.1/lists/{}", list_id, accept=[404])

    # The steps of an upsert and a removal

    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        there = await self._roster.look(list_id, [contact.known_by for contact in contacts])
        members = [seen for seen in there.values() if seen.member is not None]
        off = {s.address: why for s, why in zip(members, await self._roster.delivery_off(members), strict=True)}
        strangers = [seen for seen in there.values() if seen.member is None and not seen.left]
        banned = {s.address: why for s, why in zip(strangers, await self._bans(list_id, strangers), strict=True)}
        return [_found(there[contact.known_by.lower()], off | banned) for contact in contacts]

    async def _bans(self, list_id: str, strangers: Sequence[Seen]) -> list[str | None]:
        """Whether each of these is banned, by the list or by the site."""

        async def ban(seen: Seen) -> str | None:
            answer = await self.call("ban", "GET", "/3.1/lists/{}/bans/{}", list_id, seen.address, accept=[404])
            return None if answer.status == 404 else "banned"

        return await self.one_by_one(strangers, ban)

    async def look_up_leaving(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        # A ban stays, whoever leaves.
        there = await self._roster.look(list_id, [contact.known_by for contact in contacts])
        return [_found(there[contact.known_by.lower()], {}) for contact in contacts]

    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        there = await self._roster.look(list_id, [contact.address for contact in contacts])
        outcomes = await self.one_by_one(contacts, lambda c: self._put_one(list_id, c, there[c.address.lower()]))
        named = [
            contact
            for contact, outcome in zip(contacts, outcomes, strict=True)
            if isinstance(outcome, Delivered) and _name(contact) is not None
        ]
        # Mailman may know a new member by another name, from other lists or from an earlier time.
        new = [contact.address for contact in named if there[contact.address.lower()].member is None]
        there |= await self._roster.look(list_id, new)
        await self.one_by_one([c for c in named if _differs(there[c.address.lower()], c)], self._write_name)
        return outcomes

    async def _put_one(self, list_id: str, contact: Contact, seen: Seen) -> Outcome:
        if seen.left:
            return OptedOut(provider_contact_id=seen.address)
        if seen.member is None and (refusal := await self._subscribe(list_id, contact)):
            return refusal
        if seen.mark is None:
            await self._roster.mark(list_id, seen)
        return Delivered(seen.address)

    async def _subscribe(self, list_id: str, contact: Contact) -> Outcome | None:
        """Makes the contact a member; what stood in the way, None when nothing did."""
        body = {
            "list_id": list_id,
            "subscriber": contact.address,
            "display_name": _name(contact) or "",
            # Without all of these Mailman may ask the person or a moderator first.
            "pre_verified": True,
            "pre_confirmed": True,
            "pre_approved": True,
            "send_welcome_message": False,
        }
        try:
            await self.call("subscribe", "POST", "/3.1/members", json=body)
        except CallRefused as refused:
            if refused.code == "Member already subscribed":  # since the look
                return None
            if refused.code not in _REFUSALS:
                raise
            return _REFUSALS[refused.code]
        return None

    async def _write_name(self, contact: Contact) -> None:
        name = {"display_name": _name(contact)}
        await self.call("name", "PATCH", "/3.1/addresses/{}", contact.address, json=name, accept=[404])
        if not name["display_name"]:  # else the name of the address's owner would show in its place
            await self.call("name", "PATCH", "/3.1/users/{}", contact.address, json=name, accept=[404])

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        """By marks without members. Bans would bind everybody, but each one makes every later subscription slower."""
        seen = (await self._roster.look(list_id, [contact.address for contact in contacts])).values()
        strangers = [one for one in seen if one.member is None and one.mark is None]
        await self.one_by_one(strangers, lambda one: self._roster.mark(list_id, one))
        await self._roster.remove(list_id, [one for one in seen if one.member is not None], stay_out=True)

    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        for stay_out in (False, True):
            going = {
                record.address: record.raw
                for record in records
                if record.on_list and (record.opted_out not in (None, BOUNCED)) is stay_out
            }
            await self._roster.remove(list_id, going.values(), stay_out=stay_out)

    # Reading

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        await self.require_there(list_id)
        async for some in self._roster.everybody(list_id):
            listed = [seen for seen in some if seen.member is not None]
            off = {s.address: why for s, why in zip(listed, await self._roster.delivery_off(listed), strict=True)}
            for seen in some:
                row = seen.member or seen.mark
                if row is not None:
                    yield Member(
                        address=seen.address,
                        state=MemberState.OPTED_OUT if seen.left or off[seen.address] else MemberState.SUBSCRIBED,
                        first_name=row.get("display_name") or "",
                        provider_contact_id=seen.address,
                    )
        async for banned in self._banned("/3.1/lists/{}/bans", list_id):
            yield banned

    async def kept_out(self) -> AsyncIterator[Member]:
        """Whom the whole site bans; those of one list are among its members."""
        async for banned in self._banned("/3.1/bans"):
            yield banned

    async def _banned(self, template: str, *parts: str) -> AsyncIterator[Member]:
        """Of bans of one address each; whom a pattern means is known to Mailman alone."""
        async for ban in self._pages("bans", template, *parts):
            if not ban["email"].startswith("^"):
                yield Member(ban["email"].lower(), MemberState.OPTED_OUT, how="banned")

    def checks(self) -> Sequence[Check]:
        return (self._check_version, self._check_domain)

    async def _check_version(self) -> Finding:
        told = (await self.call("versions", "GET", "/3.1/system/versions")).json()["mailman_version"]
        version = tuple(int(part) for part in re.findall(r"\d+", told)[:3])
        text = Message("user and password are right; %(version)s answers", version=told)
        oldest = ".".join(map(str, OLDEST_VERSION))
        return Finding(
            version >= OLDEST_VERSION, text, Message("Update Mailman to %(oldest)s or newer.", oldest=oldest)
        )

    async def _check_domain(self) -> Finding:
        domain = self.settings.domain
        answer = await self.call("domain", "GET", "/3.1/domains/{}", domain, accept=[404])
        if answer.status != 404:
            return Finding(True, Message("Mailman has the mail domain %(domain)s", domain=domain))
        advice = Message("Make it in Postorius (Domains, Add Domain), or put one that Mailman has into `domain`.")
        return Finding(False, Message("Mailman has no mail domain %(domain)s", domain=domain), advice)


def _local_part(name: str) -> str:
    """What stands before the @ of a list of this name: readable, ASCII, and another one for every name."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return "-".join(part for part in ("pf", slug(name, 40), digest) if part)


def _name(contact: Contact) -> str | None:
    """The name to show; None when none is told."""
    if contact.first_name is None and contact.last_name is None:
        return None
    return joined(contact.first_name, contact.last_name, Mailman3Provider.limits.name_chars)


def _differs(seen: Seen, contact: Contact) -> bool:
    return seen.member is not None and (seen.member.get("display_name") or "") != _name(contact)


def _found(seen: Seen, kept_out: Mapping[str, str | None]) -> Found | None:
    """The record of an address; None of one whom the list never had. `kept_out` says why, by address."""
    how = "unsubscribed" if seen.left else kept_out.get(seen.address)
    if seen.member is None and how is None:
        return None
    return Found(seen.address, seen.address, how, on_list=seen.member is not None, raw=seen)
