"""A strict listmonk 6.1: lists, subscribers and imports, as its source says; every request is held against its own API
description, mended where that lags behind the code.

python -m tests.fakes.listmonk --port 9003 --latency-s 0.02
"""

import csv
import email
import io
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web

from providers.base import Secret
from providers.listmonk import ListmonkProvider, ListmonkSettings
from providers.testing.fake import FakeEsp, FakeHarness, Handler, Spec, run_forever, running
from tests.specs import spec

USER = "planfix"
TOKEN = "made-up-token-of-the-tests-0123456789"
RIGHTS = frozenset({"lists:manage_all", "subscribers:get_all", "subscribers:manage", "subscribers:import"})
NAME_BYTES = 2000
_ADDRESS = re.compile(r"[^\s@<>()\[\],;:\\\"]+@[\w-]+(\.[\w-]+)+")


def mend_lags(document: dict[str, Any]) -> None:
    """The description lags behind the code in three things (see the fact page, and SOURCES.md beside it)."""
    subscribers = document["paths"]["/subscribers"]["get"]["parameters"]
    subscribers.append({"in": "query", "name": "search", "schema": {"type": "string"}})
    one = document["paths"]["/subscribers/{id}"]
    one["patch"] = deepcopy(one["put"]) | {"operationId": "patchSubscriberById"}
    changes = document["components"]["schemas"]["SubscriberQueryRequest"]["properties"]
    changes["target_list_ids"]["type"] = "array"


@dataclass
class MailingList:
    name: str
    optin: str = "single"


@dataclass
class Subscriber:
    id: int
    email: str
    name: str = ""
    status: str = "enabled"
    attribs: dict[str, Any] = field(default_factory=dict)
    lists: dict[int, str] = field(default_factory=dict)  # subscription status by list


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, status: int, message: str = "refused") -> None:
        super().__init__(message)
        self.answer = web.json_response({"message": message}, status=status)


@dataclass
class FakeListmonk(FakeEsp):
    """Imports are done when they are looked at for the time `job_looks`. `letters` counts the requests to confirm a
    subscription that went out, `imports` the mails to the admins about imports."""

    parallel_limit: int = 4
    spec: Spec | None = field(default_factory=lambda: spec("listmonk", "collections.yaml", mend=mend_lags))
    spec_prefix: str = "/api"
    version: str = "v6.1.0"
    rights: frozenset[str] = RIGHTS
    closed_lists: set[int] = field(default_factory=set)  # that the API user may not change
    refused_domain: str = "refused.test"
    job_looks: int = 1
    import_ending: str = "finished"
    import_takes: int | None = None  # rows that an import gets through before it breaks off
    lists: dict[int, MailingList] = field(default_factory=dict)
    people: dict[str, Subscriber] = field(default_factory=dict)  # by address
    letters: int = 0
    imports: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(1)
        self._by_id: dict[int, Subscriber] = {}
        self._names_with_at: dict[str, Subscriber] = {}
        self._import: dict[str, Any] = {"name": "", "status": "none", "looks": 0, "work": None}

    # What people do

    def make_list(self, name: str, optin: str = "single") -> str:
        number = next(self._numbers)
        self.lists[number] = MailingList(name, optin)
        return str(number)

    def drop_list(self, list_id: int) -> None:
        self.lists.pop(list_id, None)
        for person in self.people.values():
            person.lists.pop(list_id, None)

    def person(self, address: str) -> Subscriber:
        """The subscriber of an address, made when there is none."""
        if address not in self.people:
            person = Subscriber(next(self._numbers), address, name=address.partition("@")[0])
            self.people[address] = self._by_id[person.id] = person
        return self.people[address]

    def someone_imports(self) -> None:
        """An admin starts an import that takes long."""
        self._import = {"name": "by-hand.csv", "status": "importing", "looks": 1000, "work": lambda: None}

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        if status == 401:
            return web.json_response({"message": "invalid API credentials"}, status=403)
        return web.json_response({"message": "see the log"}, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        table: list[tuple[str, str, str | None, Callable[[web.Request], Any]]] = [
            ("GET", "/config", None, self._get_config),
            ("GET", "/lists", None, self._get_lists),
            ("POST", "/lists", "lists:manage_all", self._post_list),
            ("GET", "/lists/{list_id}", None, self._get_list),
            ("DELETE", "/lists/{list_id}", None, self._delete_list),
            ("GET", "/subscribers", "subscribers:get_all", self._get_subscribers),
            ("POST", "/subscribers", "subscribers:manage", self._post_subscriber),
            ("PUT", "/subscribers/lists", "subscribers:manage", self._put_lists),
            ("PUT", "/subscribers/blocklist", "subscribers:manage", self._put_blocklist),
            ("GET", "/subscribers/{number}", "subscribers:get_all", self._get_subscriber),
            ("PATCH", "/subscribers/{number}", "subscribers:manage", self._patch_subscriber),
            ("GET", "/import/subscribers", "subscribers:import", self._get_import),
            ("POST", "/import/subscribers", "subscribers:import", self._post_import),
        ]
        return [web.route(method, f"/api{path}", self._guarded(right, call)) for method, path, right, call in table]

    def _guarded(self, right: str | None, handler: Callable[[web.Request], Any]) -> Handler:
        login = "Basic " + b64encode(f"{USER}:{TOKEN}".encode()).decode()

        async def guarded(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != login:
                return self.error(401)
            try:
                if right is not None and right not in self.rights:
                    raise Refusal(403, f"permission denied: {right}")
                data = handler(request)
                return web.json_response({"data": await data if hasattr(data, "__await__") else data})
            except Refusal as refusal:
                return refusal.answer

        return guarded

    async def _body(self, request: web.Request, known: Iterable[str]) -> dict[str, Any]:
        told = dict(await request.json())
        if unknown := told.keys() - set(known):
            self.violations.append(f"listmonk overlooks {sorted(unknown)}")
        return told

    def _get_config(self, request: web.Request) -> Any:
        return {"version": self.version, "lang": "en"}

    # Lists

    def _get_lists(self, request: web.Request) -> Any:
        if request.query.get("minimal") != "true":
            self.violations.append("lists are read with the counts of their subscribers")
        shown = [self._shown_list(number) for number in self.lists]
        return {"results": shown, "total": len(shown), "per_page": len(shown), "page": 1} if shown else []

    def _shown_list(self, number: int) -> dict[str, Any]:
        known = self.lists[number]
        return {"id": number, "name": known.name, "type": "private", "optin": known.optin, "tags": []}

    async def _post_list(self, request: web.Request) -> Any:
        body = await self._body(request, ("name", "type", "optin", "tags", "description"))
        if not 0 < len(body["name"].encode()) <= NAME_BYTES:
            raise Refusal(400, "Invalid length for name")
        return self._shown_list(int(self.make_list(body["name"], body["optin"])))

    def _get_list(self, request: web.Request) -> Any:
        number = int(request.match_info["list_id"])
        if number not in self.lists:
            raise Refusal(400, "List not found")
        return self._shown_list(number)

    def _delete_list(self, request: web.Request) -> Any:
        self.drop_list(int(request.match_info["list_id"]))  # never there is a success too
        return True

    # Subscribers

    def _shown(self, person: Subscriber) -> dict[str, Any]:
        return {
            "id": person.id,
            "email": person.email,
            "name": person.name,
            "attribs": person.attribs,
            "status": person.status,
            "lists": [self._shown_list(n) | {"subscription_status": s} for n, s in person.lists.items()],
        }

    def _get_subscribers(self, request: web.Request) -> Any:
        query = request.query
        if "query" in query:
            raise Refusal(403, "permission denied: subscribers:sql_query")
        found = list(self.people.values())
        if "list_id" in query:
            found = [person for person in found if int(query["list_id"]) in person.lists]
        if "search" in query:
            found = self._matching(query["search"])
        found.reverse()
        per_page = len(found) if query["per_page"] == "all" else int(query["per_page"])
        start = (int(query.get("page", 1)) - 1) * per_page
        shown = [self._shown(person) for person in found[start : start + per_page]]
        return {"results": shown, "total": len(found), "search": query.get("search", "")}

    def _matching(self, pattern: str) -> list[Subscriber]:
        """The search of the server: a regular expression against names and addresses, in any case."""
        inner = re.fullmatch(r"\^\((.*)\)\$", pattern)
        parts = re.split(r"(?<!\\)\|", inner[1]) if inner else []
        literals = [re.sub(r"\\(.)", r"\1", part).lower() for part in parts]
        if parts and [re.escape(literal) for literal in literals] == parts:  # the same, quicker
            by_name = (self._names_with_at[literal] for literal in literals if literal in self._names_with_at)
            return [*(self.people[literal] for literal in literals if literal in self.people), *by_name]
        looked = re.compile(pattern, re.IGNORECASE).search
        return [person for person in self.people.values() if looked(person.email) or looked(person.name)]

    def _call_it(self, person: Subscriber, name: str) -> None:
        if name.strip():
            person.name = name.strip()
            self._names_with_at |= {person.name.lower(): person} if "@" in name else {}

    def _subscriber_of(self, request: web.Request) -> Subscriber:
        person = self._by_id.get(int(request.match_info["number"]))
        if person is None:
            raise Refusal(400, "Subscriber not found")
        return person

    def _get_subscriber(self, request: web.Request) -> Any:
        return self._shown(self._subscriber_of(request))

    def _sane(self, address: str) -> str:
        address = address.strip().lower()
        if not _ADDRESS.fullmatch(address):
            raise Refusal(400, "Invalid e-mail.")
        if address.endswith("@" + self.refused_domain):
            raise Refusal(400, "The e-mail domain is blocklisted.")
        return address

    async def _post_subscriber(self, request: web.Request) -> Any:
        known = ("email", "name", "status", "lists", "attribs", "preconfirm_subscriptions")
        body = await self._body(request, known)
        address = self._sane(body["email"])
        if address in self.people:
            raise Refusal(409, "E-mail already exists.")
        person = self.person(address)
        self._call_it(person, body["name"])
        person.status, person.attribs = body["status"], body["attribs"]
        for number in body["lists"]:
            if number in self.lists.keys() - self.closed_lists:  # others are left out
                self._subscribe(person, number, "confirmed" if body.get("preconfirm_subscriptions") else "unconfirmed")
        return self._shown(person)

    def _subscribe(self, person: Subscriber, number: int, status: str) -> None:
        person.lists[number] = "unsubscribed" if person.status == "blocklisted" else status
        self._ask_to_confirm(person, person.lists[number] == "confirmed")

    def _ask_to_confirm(self, person: Subscriber, preconfirmed: bool) -> None:
        waits = [n for n, s in person.lists.items() if s == "unconfirmed" and self.lists[n].optin == "double"]
        self.letters += 0 if preconfirmed else len(waits)

    async def _patch_subscriber(self, request: web.Request) -> Any:
        person = self._subscriber_of(request)
        body = await self._body(request, ("email", "name", "attribs", "preconfirm_subscriptions"))
        address = self._sane(body.get("email", person.email))
        if len(body.get("name", "").encode()) > NAME_BYTES:
            raise Refusal(400, "Invalid length for name")
        if self.people.get(address, person) is not person:
            raise Refusal(500, "duplicate key value violates unique constraint")
        del self.people[person.email]
        person.email = address
        self.people[address] = person
        self._call_it(person, body.get("name", ""))
        person.attribs = person.attribs | body.get("attribs", {})
        self._ask_to_confirm(person, bool(body.get("preconfirm_subscriptions")))
        return self._shown(person)

    async def _put_lists(self, request: web.Request) -> Any:
        body = await self._body(request, ("ids", "action", "target_list_ids", "status"))
        if not body["ids"] or not body["target_list_ids"]:
            raise Refusal(400, "No IDs given")
        for number in body["target_list_ids"]:
            for person in (self._by_id[one] for one in body["ids"] if one in self._by_id):
                if body["action"] == "remove":
                    person.lists.pop(number, None)
                elif number not in self.lists:
                    raise Refusal(500, "insert or update violates foreign key constraint")
                elif status := body.get("status"):
                    person.lists[number] = status  # whatever it was before
                else:
                    person.lists.setdefault(number, "unconfirmed")
        return True

    async def _put_blocklist(self, request: web.Request) -> Any:
        body = await self._body(request, ("ids",))
        for number in body["ids"]:
            person = self._by_id[number]
            person.status = "blocklisted"
            person.lists = dict.fromkeys(person.lists, "unsubscribed")
        return True

    # Imports

    async def _post_import(self, request: web.Request) -> Any:
        if self._import["status"] == "importing":
            raise Refusal(400, "An import is already running")
        head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
        parts = {
            str(part.get_param("name", header="content-disposition")): part
            for part in email.message_from_bytes(head + await request.read()).walk()
            if not part.is_multipart()
        }
        params = json.loads(parts["params"].get_payload(decode=True))
        file_name = str(parts["file"].get_filename())
        if params["mode"] != "subscribe" or not file_name.endswith(".csv") or params["delim"] != ",":
            raise Refusal(400, "Invalid parameters")
        if params["overwrite"] or params["overwrite_subscription_status"]:
            self.violations.append("an import that brings back who has unsubscribed")
        text = parts["file"].get_payload(decode=True).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))

        def work() -> None:
            for row in rows[: self.import_takes]:
                self._import_row(row, params)

        self._import = {"name": file_name, "status": "importing", "looks": self.job_looks, "work": work}
        self.imports += 1
        return {"name": file_name, "status": "importing", "total": len(rows), "imported": 0}

    def _import_row(self, row: dict[str, str], params: dict[str, Any]) -> None:
        try:
            address = self._sane(row["email"])
        except Refusal:
            return  # told in the log alone
        is_new = address not in self.people
        person = self.person(address)
        if is_new or params["overwrite_userinfo"]:
            self._call_it(person, row["name"])
            person.attribs = json.loads(row["attributes"])
        for number in params["lists"]:
            if number in self.lists and number not in person.lists:
                self._subscribe(person, number, params["subscription_status"])

    def _get_import(self, request: web.Request) -> Any:
        running = self._import
        if running["status"] == "importing":
            running["looks"] -= 1
            if running["looks"] <= 0:
                running["work"]()
                running["status"] = self.import_ending
        return {"name": running["name"], "status": running["status"], "total": 0, "imported": 0}


class ListmonkHarness(FakeHarness):
    fake: FakeListmonk

    async def lists(self) -> dict[str, str]:
        return {str(number): known.name for number, known in self.fake.lists.items()}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        number = int(list_id)
        needed = {"confirmed"} if self.fake.lists[number].optin == "double" else {"confirmed", "unconfirmed"}
        return {
            person.email: (person.attribs.get("first_name", ""), person.attribs.get("last_name", ""))
            for person in self.fake.people.values()
            if person.status == "enabled" and person.lists.get(number) in needed
        }

    async def opt_out(self, address: str) -> None:
        person = self.fake.person(address.lower())
        if not person.lists:
            person.status = "blocklisted"
        person.lists = dict.fromkeys(person.lists, "unsubscribed")

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(int(list_id))

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def listmonk(**knobs: Any) -> AbstractAsyncContextManager[ListmonkHarness]:
    """A running fake and an open provider on it."""
    fake = FakeListmonk(**knobs)

    def harness() -> ListmonkHarness:
        settings = ListmonkSettings(base_url=fake.base_url, user=USER, token=Secret(TOKEN))
        return ListmonkHarness(fake, ListmonkProvider(settings), [TOKEN])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeListmonk, key=TOKEN)
