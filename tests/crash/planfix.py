"""Plays Planfix at a bridge that is killed now and then: several requests at one time, repeated or given up."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import aiohttp

from tests.crash.bridge import TOKEN
from tests.crash.esp import Esp
from tests.crash.model import Mailing, Model, Person, Place, undone_opt_outs

LISTS_MAX = 5
REPEAT_SHARE = 0.5
PAUSE_S = 0.03
WATCH_EVERY_S = 0.3


class Planfix:
    """Answers go into `model`; what must never be answered into `faults`. `up` is set while the bridge runs.

    Two requests about one contact never run at one time. A request that is not answered is repeated, or else given
    up: then its contacts may be as before or as asked. `urls` are asked in turn. Contacts get ids from `first_id` on.
    """

    def __init__(self, urls: Sequence[str], esp: Esp, dice: random.Random, first_id: int = 1) -> None:
        self.model = Model()
        self.faults: list[str] = []
        self.answered = 0
        self.unanswered = 0
        self.up = asyncio.Event()
        self.urls = list(urls)
        self._esp = esp
        self._dice = dice
        self._ids = count(first_id)
        self._turn = count()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._creating: set[str] = set()
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30.0))

    def begin(self, parallel: int) -> None:
        """Sends requests of all kinds from now on."""
        self._stopping = False
        self._tasks += [asyncio.create_task(self._live()) for _ in range(parallel)]

    async def end(self) -> None:
        """Returns when the requests under way are answered or given up. The bridge must run."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        self._tasks.clear()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def watch(self) -> None:
        """Looks for opt-outs that were undone, all the time."""
        while True:
            out = self.model.out()
            found = undone_opt_outs(out, await self._esp.state())
            self.faults += [fault for fault in found if fault not in self.faults]
            await asyncio.sleep(WATCH_EVERY_S)

    # --- single requests

    async def ask(self, action: str, data: dict[str, Any], share: float = REPEAT_SHARE) -> dict[str, Any] | None:
        """The answer, None when there was none and it is given up; `share` is how often it is repeated instead."""
        while True:
            await self.up.wait()
            url = self.urls[next(self._turn) % len(self.urls)]
            request = {"action": action, "authToken": TOKEN, "data": data}
            try:
                async with self._session.post(url, json=request) as response:
                    told = dict(await response.json())
                    unavailable = response.status == 503
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                self.unanswered += 1
                if self._dice.random() >= share:
                    return None
                await asyncio.sleep(PAUSE_S)
                continue
            if unavailable:  # the ESP is not reached for a list, which Planfix is told
                await asyncio.sleep(PAUSE_S)
                continue
            self.answered += 1
            if told.get("success") is not True or told.get("rejected"):
                self.faults.append(f"{action} was answered {told}")
            return told

    async def create_list(self, name: str) -> Mailing | None:
        self._creating.add(name)
        told = await self.ask("createList", {"listName": name})
        self._creating.discard(name)
        if told is None or "listId" not in told:
            self.model.given_up[name] = self.model.given_up.get(name, 0) + 1
            return None
        mailing = Mailing(told["listId"], name)
        self.model.mailings.append(mailing)
        return mailing

    async def delete_list(self, mailing: Mailing) -> None:
        mailing.asked_to_go = True
        mailing.gone = await self.ask("deleteList", {"listId": mailing.public_id}) is not None

    async def import_contacts(self, mailing: Mailing, people: Sequence[Person]) -> None:
        wire = [self._wire(person) for person in people]
        await self._change(
            mailing,
            "importContacts",
            {"listId": mailing.public_id, "contacts": wire},
            [(person, person.place) for person in people],
        )

    async def update(self, mailing: Mailing, action: str, person: Person, old_address: str | None = None) -> None:
        data = {"listId": mailing.public_id, "action": action, "contact": self._wire(person)}
        if old_address is not None:
            data["oldEmail"] = old_address
        await self._change(mailing, "updateContact", data, [(person, None if action == "delete" else person.place)])

    async def _change(
        self, mailing: Mailing, action: str, data: dict[str, Any], asked: Sequence[tuple[Person, Place]]
    ) -> None:
        for person, place in asked:
            person.allowed.add(place)  # from here on
            person.addresses.add(person.address)
        # A new address that was never told of somebody who opted out could not be known for theirs.
        share = 1.0 if any(person.opted_out for person, _ in asked) else REPEAT_SHARE
        if await self.ask(action, data, share) is not None:
            mailing.touched = True
            for person, place in asked:
                person.allowed = {place}

    @staticmethod
    def _wire(person: Person) -> dict[str, Any]:
        return {"id": person.id, "email": person.address, "firstName": person.first, "lastName": person.last}

    def strangers(self, mailing: Mailing, number: int) -> list[Person]:
        """New people in the filter of a list. They are busy until they are sent."""
        people = []
        for contact_id in (next(self._ids) for _ in range(number)):
            people.append(Person(contact_id, f"p{contact_id}@post.test", f"Имя{contact_id}", "Фамилия", busy=True))
        mailing.people += people
        return people

    # --- a life of requests

    async def _live(self) -> None:
        acts: dict[Callable[[Mailing], Awaitable[None]], int] = {
            self._import: 4,
            self._add: 6,
            self._rename: 6,
            self._move: 8,
            self._remove: 6,
            self._put_back: 4,
            self._opt_out: 2,
            self._delete: 1,
        }
        while not self._stopping:
            await self.up.wait()
            open_ones = [mailing for mailing in self.model.mailings if not mailing.asked_to_go]
            if len(open_ones) < 2 or (len(open_ones) < LISTS_MAX and self._dice.random() < 0.03):
                await self.create_list(self.list_name())
                continue
            mailing = self._dice.choice(open_ones)
            mailing.in_use += 1
            try:
                await self._dice.choices(list(acts), list(acts.values()))[0](mailing)
            finally:
                mailing.in_use -= 1
            await asyncio.sleep(PAUSE_S)

    def list_name(self) -> str:
        """A new name, or that of a list in use, which another list at the ESP gets then."""
        unused = {mailing.name for mailing in self.model.mailings if not mailing.touched}
        taken = {mailing.name for mailing in self.model.mailings} - unused - self._creating
        if taken and self._dice.random() < 0.3:
            return self._dice.choice(sorted(taken))
        return f"Клиенты {next(self._ids)}"

    async def _import(self, mailing: Mailing) -> None:
        number = self._dice.choice([2, 10, 40, 300])
        known = [person for person in mailing.people if not person.busy and person.is_on][: number // 2]
        with _busy(known), _busy(self.strangers(mailing, number - len(known))) as new:
            await self.import_contacts(mailing, [*known, *new])

    async def _add(self, mailing: Mailing) -> None:
        with _busy(self.strangers(mailing, 1)) as (person,):
            await self.update(mailing, "add", person)

    async def _rename(self, mailing: Mailing) -> None:
        if person := self._pick(mailing, {True}):
            with _busy([person]):
                person.first = f"Имя{next(self._ids)}"
                await self.update(mailing, "update", person)

    async def _move(self, mailing: Mailing) -> None:
        if person := self._pick(mailing, {True}):
            with _busy([person]):
                old, person.address = person.address, f"p{person.id}v{next(self._ids)}@post.test"
                await self.update(mailing, "update", person, old)

    async def _remove(self, mailing: Mailing) -> None:
        if person := self._pick(mailing, {True, False}):
            with _busy([person]):
                await self.update(mailing, "delete", person)

    async def _put_back(self, mailing: Mailing) -> None:
        if person := self._pick(mailing, {False}):
            with _busy([person]):
                await self.update(mailing, "add", person)

    async def _opt_out(self, mailing: Mailing) -> None:
        """Somebody whom mail reaches at the address that Planfix knows."""
        person = self._pick(mailing, {True})
        if person is None or person.opted_out or person.allowed != {person.place}:
            return
        with _busy([person]):
            if person.address in (await self._esp.state()).mailable.get(mailing.provider_id, {}):
                await self._esp.opt_out(person.address)
                person.opted_out = True

    async def _delete(self, mailing: Mailing) -> None:
        if mailing.in_use == 1 and mailing.touched:
            await self.delete_list(mailing)

    def _pick(self, mailing: Mailing, is_on: set[bool]) -> Person | None:
        people = [person for person in mailing.people if not person.busy and person.is_on in is_on]
        return self._dice.choice(people) if people else None


@contextmanager
def _busy(people: Sequence[Person]) -> Iterator[Sequence[Person]]:
    for person in people:
        person.busy = True
    try:
        yield people
    finally:
        for person in people:
            person.busy = False
