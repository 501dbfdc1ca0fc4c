"""Plays Planfix: the contacts of a filter, and the requests that Planfix sends about them.

Planfix says little of how it sends. The default here is what its pages and its other APIs suggest: JSON in UTF-8, one
connection, the next request after the last answer, success only with status 200 and `"success": true`.
"""

import asyncio
import io
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec

from providers.base import Contact

TIMEOUT_S: Final = 120.0
"""Longest wait for an answer; a bridge answers within its `server.reply_within_s`."""

CONNECT_TIMEOUT_S: Final = 10.0

CHANGES: Final = ("add contact", "update names", "update address", "delete contact")
"""One round of single changes, each led by its action; it leaves the filter as large as before."""


@dataclass(slots=True)
class Step:
    """What was asked in one way, and what came back.

    `requests` are those sent, repeated ones too; `successes` and `errors` are answers; `pending` and `rejected` count
    contacts. `messages` holds every text of an error or a rejection and how often it came.
    """

    name: str
    requests: int = 0
    successes: int = 0
    errors: int = 0
    pending: int = 0
    rejected: int = 0
    waited_s: float = 0.0
    slowest_s: float = 0.0
    messages: dict[str, int] = field(default_factory=dict)

    def say(self, message: str) -> None:
        self.messages[message] = self.messages.get(message, 0) + 1


class _Rejection(msgspec.Struct):
    id: str | int
    reason: str


class _Answer(msgspec.Struct):
    """What Planfix is told. Without `success` there is an `error`."""

    success: bool = False
    error: str = ""
    list_id: str | int | None = msgspec.field(name="listId", default=None)
    delivered: int = 0
    pending: int = 0
    rejected: list[_Rejection] = []


@dataclass(frozen=True, slots=True)
class _Request:
    """Requests of one `lane` are sent one after the other."""

    step: Step
    action: str
    data: dict[str, object]
    contacts: int = 1
    lane: int = 0


class Planfix:
    """One filter of a Planfix account with its mailing at a bridge; use it as an async context manager.

    The methods are the life of a mailing in its order. None raises for what the bridge does, down or not: that is in
    `steps`. `parallel` requests are under way at one time, never two about one contact. With `repeat_after_s` a
    request that is not answered by then is sent once more. `watch(what, done, of)` hears how far the contacts are.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        parallel: int = 1,
        ids_as_text: bool = False,
        form: bool = False,
        repeat_after_s: float | None = None,
        watch: Callable[[str, int, int], None] = lambda what, done, of: None,
    ) -> None:
        self.steps: list[Step] = []
        self.list_id: str | int | None = None
        self.list_deleted = False
        self._url = url
        self._token = token
        self._parallel = parallel
        self._ids_as_text = ids_as_text
        self._form = form
        self._waits_s = (TIMEOUT_S,) if repeat_after_s is None else (repeat_after_s, TIMEOUT_S)
        self._watch = watch
        self._filter: dict[str, Contact] = {}
        self._rejected: set[str] = set()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=self._parallel))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @property
    def expected(self) -> list[Contact]:
        """Who must be on the list when no answer was an error, people who opted out earlier aside.

        A bridge names only the first hundred rejected contacts; those beyond are still in here.
        """
        return [contact for contact in self._filter.values() if contact.id not in self._rejected]

    async def create_list(self, name: str) -> bool:
        """Switches the mailing on. Without a list (False) nothing else can be asked."""
        answer = await self._ask(_Request(self._step("createList"), "createList", {"listName": name}))
        self.list_id = answer.list_id
        return answer.success

    async def import_contacts(self, contacts: Sequence[Contact], slice_size: int | None = None) -> None:
        """Fills the filter: one request, though nobody is in it, or as many as slices are needed."""
        self._filter.update((contact.id, contact) for contact in contacts)
        step = self._step("importContacts")
        size = slice_size or len(contacts) or 1
        slices = [contacts[start : start + size] for start in range(0, len(contacts) or 1, size)]
        await self._ask_all(
            [
                _Request(
                    step,
                    "importContacts",
                    {"listId": self.list_id, "contacts": [self._wire(contact) for contact in part]},
                    len(part),
                    index,
                )
                for index, part in enumerate(slices)
            ]
        )

    async def change(self, count: int, strangers: Iterator[Contact], dice: random.Random) -> None:
        """Edits single contacts: whole rounds of CHANGES, for the rest names. `strangers` lend what is new.

        The filter ends as large as it began. Where nobody is in it, there are no names to edit.
        """
        steps = {kind: Step(kind) for kind in CHANGES}
        add, names, address, delete = CHANGES
        lanes = {contact.id: lane for lane, contact in enumerate(self.expected)}
        ids = list(lanes)
        requests: list[_Request] = []
        for kind in (*CHANGES * (count // len(CHANGES)), *[names] * (count % len(CHANGES))):
            stranger = next(strangers)
            if kind == add:
                lanes[stranger.id] = len(lanes)
                ids.append(stranger.id)
                self._filter[stranger.id] = stranger
            elif not ids:
                continue
            index = len(ids) - 1 if kind == add else dice.randrange(len(ids))
            contact = self._filter[ids[index]]
            data: dict[str, object] = {"listId": self.list_id, "action": kind.split()[0]}
            if kind == names:
                contact = replace(contact, first_name=stranger.first_name, last_name=stranger.last_name)
            elif kind == address:
                data["oldEmail"] = contact.address
                contact = replace(contact, address=stranger.address)
            data["contact"] = self._wire(contact)
            self._filter[contact.id] = contact
            if kind == delete:
                del self._filter[contact.id]
                ids[index] = ids[-1]  # their order is free, and this costs nothing with many
                ids.pop()
            requests.append(_Request(steps[kind], "updateContact", data, lane=lanes[contact.id]))
        self.steps += [step for step in steps.values() if any(request.step is step for request in requests)]
        await self._ask_all(requests)

    async def delete_list(self) -> None:
        """Switches the mailing off."""
        answer = await self._ask(_Request(self._step("deleteList"), "deleteList", {"listId": self.list_id}))
        self.list_deleted = answer.success

    def _step(self, name: str) -> Step:
        step = Step(name)
        self.steps.append(step)
        return step

    def _wire(self, contact: Contact) -> dict[str, object]:
        # Only a text that comes back the same may travel as a number.
        number = contact.id.isascii() and contact.id.isdigit() and len(contact.id) < 16 and contact.id[0] != "0"
        wire = {
            "id": int(contact.id) if number and not self._ids_as_text else contact.id,
            "email": contact.address,
            "firstName": contact.first_name,
            "lastName": contact.last_name,
        }
        return {name: value for name, value in wire.items() if value is not None}

    async def _ask_all(self, requests: Sequence[_Request]) -> None:
        lanes: dict[int, list[_Request]] = {}
        for request in requests:
            lanes.setdefault(request.lane % self._parallel, []).append(request)
        done, total = 0, sum(request.contacts for request in requests)

        async def work_off(lane: Sequence[_Request]) -> None:
            nonlocal done
            for request in lane:
                await self._ask(request)
                done += request.contacts
                self._watch(request.action, done, total)

        await asyncio.gather(*(work_off(lane) for lane in lanes.values()))

    async def _ask(self, request: _Request) -> _Answer:
        step = request.step
        started_s = time.monotonic()
        answer = await self._send(request)
        waited_s = time.monotonic() - started_s
        step.waited_s += waited_s
        step.slowest_s = max(step.slowest_s, waited_s)
        step.pending += answer.pending
        if answer.success:
            step.successes += 1
        else:
            step.errors += 1
            step.say(answer.error)
        if answer.rejected:  # the first ones only; the counts are of all
            step.rejected += request.contacts - answer.delivered - answer.pending
        for rejection in answer.rejected:
            step.say(rejection.reason)
            self._rejected.add(str(rejection.id))
        return answer

    async def _send(self, request: _Request) -> _Answer:
        fields = {"action": request.action, "authToken": self._token, "data": request.data}
        if self._form:
            content_type = "application/x-www-form-urlencoded"
            body = urlencode(fields | {"data": msgspec.json.encode(request.data)}).encode()
        else:
            content_type, body = "application/json", msgspec.json.encode(fields)
        for wait_s in self._waits_s:
            request.step.requests += 1
            try:
                async with self._session.post(
                    self._url,
                    data=io.BytesIO(body),  # bytes of this size would be sent in one piece
                    headers={"Content-Type": content_type},
                    timeout=aiohttp.ClientTimeout(total=wait_s, sock_connect=CONNECT_TIMEOUT_S),
                    allow_redirects=False,
                ) as response:
                    return _answer(request, response.status, await response.read())
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                # The rest of the URL may hold a secret.
                where = urlsplit(self._url).netloc.rpartition("@")[2]
                return _Answer(error=f"Nobody answers at {where}. Start the bridge or correct the URL.")
            except TimeoutError:
                continue
            except aiohttp.ClientError as error:
                return _Answer(error=f"The connection broke ({type(error).__name__}). Look at the bridge's log.")
        return _Answer(error=f"No answer within {TIMEOUT_S:g} s.")


def _answer(request: _Request, status: int, body: bytes) -> _Answer:
    """What Planfix makes of an HTTP answer; where that is no success, its `error` or else what is wrong with it."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except msgspec.DecodeError:
        answer = _Answer()
    proper = answer.success != bool(answer.error) and (status == 200 or not answer.success)
    if answer.success and request.action == "createList":
        proper = proper and answer.list_id is not None
    return answer if proper else _Answer(error=f"No proper answer of the mailing API (HTTP {status}). Check the URL.")
