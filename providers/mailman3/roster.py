"""Who is on a list of Mailman, and the mark that tells who left it by themselves.

Mailman forgets who left. So everybody whom the bridge puts on a list gets a mark there beside the membership, which
stays when the person leaves. Put on are the member first, then the mark; taken off are the mark first, then the member.
A mark alone therefore means that somebody left, or was taken off by others.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, Final, TypeAlias

from providers.answers import CallRefused
from providers.base import BOUNCED, Transient
from providers.concurrency import chunks
from providers.rest import RestProvider

LOOKS_UP_TO: Final = 10  # addresses that are looked at one by one without asking how long the list is
ROWS_PER_LOOK: Final = 10  # rows of a list that Mailman reads in the time of one look at one address (measured)
REMOVED_AT_ONCE: Final = 100
PAGE: Final = 500

BANNED: Final = "Membership is banned"
INVALID: Final = 'Invalid Parameter "subscriber"'

Row: TypeAlias = Mapping[str, Any]
_FIELDS: Final = ["email", "role", "delivery_mode", "display_name", "member_id"]

# The mark is a nonmember with a delivery mode, which means nothing for nonmembers. Mailman itself makes nonmembers of
# strangers who write to a list, without one.
_MARK: Final = "summary_digests"

_DELIVERY_OFF: Final = {"by_user": "delivery off", "by_moderator": "delivery off", "by_bounces": BOUNCED}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a list holds of one address, in small letters: Mailman's rows, None where there is none. `stray` is a
    nonmember that Mailman made by itself."""

    address: str
    member: Row | None = None
    mark: Row | None = None
    stray: Row | None = None

    @property
    def left(self) -> bool:
        """Whether the person was on the list and is not any more, by no act of the bridge."""
        return self.member is None and self.mark is not None


class Roster:
    """Reads and changes who is on lists, by calls of `provider`."""

    def __init__(self, provider: RestProvider[Any]) -> None:
        self._provider = provider

    async def look(self, list_id: str, addresses: Iterable[str]) -> dict[str, Seen]:
        """What the list holds of each address, by the address in small letters; nothing where the list is gone.

        One answer tells of all where that costs Mailman less. It is never read page by page: when somebody leaves
        meanwhile, the next page lacks a row, and that might be a mark.
        """
        wanted = {address.lower() for address in addresses}
        many = len(wanted) > LOOKS_UP_TO
        if many and (await self._find(list_id, count=0, page=1))["total_size"] <= ROWS_PER_LOOK * len(wanted):
            answers = [await self._find(list_id)]
        else:
            answers = await self._provider.one_by_one(
                sorted(wanted), lambda address: self._find(list_id, subscriber=address)
            )
        rows: dict[str, list[Row]] = defaultdict(list)
        for row in chain.from_iterable(answer.get("entries") or () for answer in answers):
            rows[row["email"]].append(row)
        return {address: _seen(address, rows[address]) for address in wanted}

    async def everybody(self, list_id: str) -> AsyncIterator[list[Seen]]:
        """All that the list holds, some people at a time. Rows come sorted by address; the last one of a page may go
        on in the next."""
        rows: list[Row] = []
        number, size = 1, 0
        while True:
            told = await self._find(list_id, count=PAGE, page=number)
            if told["total_size"] < size:
                raise Transient("the list became shorter while it was read, so that rows may be missing")
            number, size = number + 1, told["total_size"]
            page = told.get("entries") or []
            people = [(address, list(some)) for address, some in groupby([*rows, *page], lambda row: row["email"])]
            rows = people.pop()[1] if len(page) == PAGE else []
            yield [_seen(address, some) for address, some in people]
            if not rows:
                return

    async def _find(self, list_id: str, **narrowed: str | int) -> Any:
        query = {"list_id": list_id, "fields": _FIELDS, **narrowed}
        return (await self._provider.call("find", "GET", "/3.1/members/find", query=query)).json()

    async def delivery_off(self, members: Sequence[Seen]) -> list[str | None]:
        """Why each of these members gets no mail, None for who does."""

        async def why(seen: Seen) -> str | None:
            path = "/3.1/members/{}/all/preferences"
            answer = await self._provider.call("preferences", "GET", path, _id_of(seen.member), accept=[404])
            return None if answer.status == 404 else _DELIVERY_OFF.get(answer.json().get("delivery_status"))

        return await self._provider.one_by_one(members, why)

    async def mark(self, list_id: str, seen: Seen) -> None:
        """Makes the mark of an address that has none yet. Whom Mailman bans or does not take needs none."""
        if seen.stray is not None:
            mode = {"delivery_mode": _MARK}
            path = "/3.1/members/{}"
            answer = await self._provider.call("mark", "PATCH", path, _id_of(seen.stray), json=mode, accept=[404])
            if answer.status != 404:
                return
        body = {"list_id": list_id, "subscriber": seen.address, "role": "nonmember", "delivery_mode": _MARK}
        try:
            await self._provider.call("mark", "POST", "/3.1/members", json=body)
        except CallRefused as refused:
            if refused.code not in (BANNED, INVALID) and " is already an nonmember of " not in str(refused.code):
                raise

    async def remove(self, list_id: str, members: Collection[Seen], *, stay_out: bool) -> None:
        """Takes members off the list. Their marks stay when they are to `stay_out`, else they go. A list that is gone
        is success."""

        async def settle_mark(seen: Seen) -> None:
            if stay_out and seen.mark is None:
                await self.mark(list_id, seen)
            elif not stay_out and seen.mark is not None:
                await self._provider.call("unmark", "DELETE", "/3.1/members/{}", _id_of(seen.mark), accept=[404])

        for some in chunks(members, REMOVED_AT_ONCE):
            await self._provider.one_by_one(some, settle_mark)
            # By any other role in this path members are removed too.
            path, body = "/3.1/lists/{}/roster/member", {"emails": [seen.address for seen in some]}
            answer = await self._provider.call("unsubscribe", "DELETE", path, list_id, json=body, accept=[404])
            told = {} if answer.status == 404 else answer.json()
            left = [seen for seen in some if told.get(seen.address) is False]  # by themselves, since they were seen
            await self._provider.one_by_one(left, lambda seen: self.mark(list_id, seen))


def _seen(address: str, rows: Iterable[Row]) -> Seen:
    parts: dict[str, Row] = {}
    for row in rows:
        if row["role"] == "member":
            parts["member"] = row
        elif row["role"] == "nonmember":
            parts["mark" if row["delivery_mode"] == _MARK else "stray"] = row
    return Seen(address, **parts)


def _id_of(row: Row | None) -> str:
    return str((row or {})["member_id"])
