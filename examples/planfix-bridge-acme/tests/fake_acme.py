"""A strict Acme Mail: what its documentation says, and a refusal of everything else."""

import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web
from planfix_bridge_acme import AcmeProvider, AcmeSettings

from providers.base import Secret
from providers.testing.fake import FakeEsp, FakeHarness, running

TOKEN = "acme-token-of-the-tests-0123456789"
ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")


@dataclass
class Person:
    id: int
    email: str
    unsubscribed: bool = False
    first_name: str = ""
    last_name: str = ""
    external_id: str = ""
    lists: set[int] = field(default_factory=set)


def error(status: int, code: str) -> web.Response:
    return web.json_response({"error": {"code": code}}, status=status)


@dataclass
class FakeAcme(FakeEsp):
    parallel_limit: int = 4
    lists: dict[int, str] = field(default_factory=dict)
    people: dict[int, Person] = field(default_factory=dict)
    by_address: dict[str, Person] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: count(1))

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        return web.json_response({"error": {"code": "refused"}}, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        table: list[tuple[str, str, Callable[..., Awaitable[web.Response]]]] = [
            ("GET", "/lists", self.get_lists),
            ("POST", "/lists", self.post_list),
            ("GET", "/lists/{list_id}", self.get_list),
            ("DELETE", "/lists/{list_id}", self.delete_list),
            ("GET", "/lists/{list_id}/contacts", self.get_members),
            ("PUT", "/lists/{list_id}/contacts", self.put_contacts),
            ("POST", "/lists/{list_id}/contacts/remove", self.remove),
            ("GET", "/contacts/{key}", self.get_contact),
            ("PATCH", "/contacts/{key}", self.patch_contact),
            ("GET", "/suppressions", self.get_suppressed),
            ("PUT", "/suppressions", self.suppress),
        ]
        return [web.route(method, f"/v1{path}", self.guarded(handler)) for method, path, handler in table]

    def guarded(self, handler: Callable[..., Awaitable[web.Response]]) -> Callable[..., Awaitable[web.Response]]:
        async def guarded(request: web.Request) -> web.Response:
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.error(401)
            if "list_id" in request.match_info and int(request.match_info["list_id"]) not in self.lists:
                return error(404, "no_list")
            return await handler(request)

        return guarded

    def page(self, request: web.Request, items: list[Any]) -> web.Response:
        start = (int(request.query["page"]) - 1) * 100
        return web.json_response({"items": items[start : start + 100]})

    async def get_lists(self, request: web.Request) -> web.Response:
        return self.page(request, [{"id": number, "name": name} for number, name in self.lists.items()])

    async def post_list(self, request: web.Request) -> web.Response:
        name = (await request.json())["name"]
        if not 0 < len(name) <= 80 or not name.isascii():
            return error(400, "bad_name")
        if name in self.lists.values():
            return error(409, "name_taken")
        return web.json_response({"id": self.make_list(name)}, status=201)

    async def get_list(self, request: web.Request) -> web.Response:
        return web.json_response({"name": self.lists[int(request.match_info["list_id"])]})

    async def delete_list(self, request: web.Request) -> web.Response:
        self.drop_list(int(request.match_info["list_id"]))
        return web.Response(status=204)

    async def get_members(self, request: web.Request) -> web.Response:
        list_id = int(request.match_info["list_id"])
        shown = [vars(person) | {"lists": None} for person in self.people.values() if list_id in person.lists]
        return self.page(request, shown)

    async def put_contacts(self, request: web.Request) -> web.Response:
        rows = (await request.json())["contacts"]
        if len(rows) > 100:
            return error(400, "too_many")
        return web.json_response({"results": [self.put(int(request.match_info["list_id"]), row) for row in rows]})

    def put(self, list_id: int, row: dict[str, str]) -> dict[str, Any]:
        address = row["email"].lower()
        if not ADDRESS.fullmatch(address) or address.endswith("@refused.test") or len(row.get("first_name", "")) > 60:
            return {"status": "invalid"}
        person = self.person(address)
        for key in row.keys() & {"first_name", "last_name", "external_id"}:
            setattr(person, key, row[key])
        person.lists.add(list_id)
        return {"id": person.id, "status": "unsubscribed" if person.unsubscribed else "ok"}

    async def remove(self, request: web.Request) -> web.Response:
        for number in (await request.json())["ids"]:
            self.people[number].lists.discard(int(request.match_info["list_id"]))
        return web.json_response({})

    def found(self, request: web.Request) -> Person | None:
        key = request.match_info["key"]
        return self.by_address.get(key.lower()) if "@" in key else self.people.get(int(key))

    async def get_contact(self, request: web.Request) -> web.Response:
        person = self.found(request)
        return error(404, "no_contact") if person is None else web.json_response(vars(person) | {"lists": None})

    async def patch_contact(self, request: web.Request) -> web.Response:
        person = self.found(request)
        address = (await request.json())["email"].lower()
        if person is None:
            return error(404, "no_contact")
        if self.by_address.get(address, person) is not person:
            return error(409, "taken")
        del self.by_address[person.email]
        person.email, person.unsubscribed = address, False  # an unsubscription belongs to the address
        self.by_address[address] = person
        return web.json_response({})

    async def get_suppressed(self, request: web.Request) -> web.Response:
        return self.page(request, [{"email": person.email} for person in self.people.values() if person.unsubscribed])

    async def suppress(self, request: web.Request) -> web.Response:
        for address in (await request.json())["emails"]:
            self.person(address).unsubscribed = True
        return web.json_response({})

    def person(self, address: str) -> Person:
        if address.lower() not in self.by_address:
            person = Person(next(self.numbers), address.lower())
            self.people[person.id] = self.by_address[person.email] = person
        return self.by_address[address.lower()]

    def make_list(self, name: str) -> int:
        number = next(self.numbers)
        self.lists[number] = name
        return int(number)

    def drop_list(self, list_id: int) -> None:
        del self.lists[list_id]
        for person in self.people.values():
            person.lists.discard(list_id)


class AcmeHarness(FakeHarness):
    fake: FakeAcme

    async def lists(self) -> dict[str, str]:
        return {str(number): name for number, name in self.fake.lists.items()}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        return {
            person.email: (person.first_name, person.last_name)
            for person in self.fake.people.values()
            if int(list_id) in person.lists and not person.unsubscribed
        }

    async def opt_out(self, address: str) -> None:
        self.fake.person(address).unsubscribed = True

    async def make_list(self, name: str) -> str:
        return str(self.fake.make_list(name))

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(int(list_id))

    def refused_address(self) -> str:
        return "anna@refused.test"


def acme() -> AbstractAsyncContextManager[AcmeHarness]:
    """A running fake and an open provider on it."""
    fake = FakeAcme()

    def harness() -> AcmeHarness:
        settings = AcmeSettings(token=Secret(TOKEN), base_url=f"{fake.base_url}/v1")
        return AcmeHarness(fake, AcmeProvider(settings), [TOKEN])

    return running(fake, harness)
