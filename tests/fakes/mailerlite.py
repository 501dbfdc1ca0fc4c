"""A strict MailerLite: groups, subscribers with their status, batches, imports with reports, as the fact page says.

python -m tests.fakes.mailerlite --port 9004 --latency-s 0.2
"""

import json
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias
from urllib.parse import unquote

from aiohttp import web

from providers.base import Secret
from providers.mailerlite import MailerliteProvider, MailerliteSettings
from providers.testing.fake import FakeEsp, FakeHarness, run_forever, running

KEY = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.fake-token-of-the-tests.0123456789"
OUT = ("unsubscribed", "bounced", "junk")
STATUSES = ("active", "unconfirmed", *OUT)
BATCHED = 50
ROWS = 1000
MEMBERS = 1000
SUBSCRIBERS = 100
GROUPS = 1000
FIELDS = 100
SAMPLES = 5

_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")
Told: TypeAlias = tuple[int, Any]  # status and body


@dataclass
class Person:
    id: str
    email: str
    status: str = "active"
    fields: dict[str, str] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)

    def shown(self) -> dict[str, Any]:
        return {"id": self.id, "email": self.email, "status": self.status, "fields": self.fields}


class Refusal(Exception):
    """Ends a request with an error answer: a message alone, or what was wrong with which fields."""

    def __init__(self, status: int, message: str = "", **more: Any) -> None:
        super().__init__(message)
        self.told: Told = status, {"message": message, **more}


def invalid(**errors: str) -> Refusal:
    return Refusal(422, "The given data was invalid.", errors={name: [text] for name, text in errors.items()})


@dataclass
class Request:
    """One request, also one inside a batch."""

    query: dict[str, str]
    body: Any
    ids: tuple[str, ...]

    def only(self, *known: str) -> dict[str, Any]:
        """The body, which may hold no other fields."""
        told = dict(self.body or {})
        if unknown := told.keys() - set(known):
            raise invalid(**dict.fromkeys(sorted(unknown), "The field is not known."))
        return told

    def limit(self, default: int, most: int) -> int:
        limit = int(self.query.get("limit", default))
        if not 0 < limit <= most:
            raise invalid(limit=f"The limit may not be greater than {most}.")
        return limit


@dataclass
class FakeMailerlite(FakeEsp):
    """Imports are done when they are looked at for the time `job_looks`. A bad address is left out by an import, or,
    with `strict_imports`, refuses it whole and is named."""

    parallel_limit: int = 4
    job_looks: int = 1
    strict_imports: bool = False
    unnamed_rows: bool = False  # such a refusal names no rows
    stopped: bool = False  # imports stop before their first row: the plan is full
    part_status: int = 0  # of the last answer in every batch, instead of a good one
    fixed_addresses: bool = False  # an address is not changed, without a word
    unique_names: bool = False
    refused_domain: str = "refused.test"
    role_names: frozenset[str] = frozenset()  # what stands before the @ of an address that imports leave out
    groups: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=lambda: {"name": "Name", "last_name": "Last name"})  # key → name
    people: dict[str, Person] = field(default_factory=dict)  # by address in small letters

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(10**17)  # beyond what a number of JSON holds exactly
        self._jobs: dict[str, list[Any]] = {}  # looks left, work, report
        table: list[tuple[str, str, Callable[[Request], Told]]] = [
            ("GET", r"groups", self._get_groups),
            ("POST", r"groups", self._post_group),
            ("DELETE", r"groups/(\d+)", self._delete_group),
            ("GET", r"groups/(\d+)/subscribers", self._get_members),
            ("POST", r"groups/(\d+)/import-subscribers", self._post_import),
            ("GET", r"subscribers/import/(\d+)", self._get_import),
            ("GET", r"subscribers", self._get_subscribers),
            ("POST", r"subscribers", self._post_subscriber),
            ("GET", r"subscribers/([^/]+)", self._get_subscriber),
            ("PUT", r"subscribers/(\d+)", self._put_subscriber),
            ("DELETE", r"subscribers/(\d+)/groups/(\d+)", self._unassign),
            ("GET", r"fields", self._get_fields),
            ("POST", r"fields", self._post_field),
            ("POST", r"batch", self._post_batch),
        ]
        self._table = [(method, re.compile(f"api/{path}"), handler) for method, path, handler in table]

    # What tests do by hand

    def make_list(self, name: str) -> str:
        number = str(next(self._numbers))
        self.groups[number] = name
        return number

    def drop_list(self, list_id: str) -> None:
        self.groups.pop(list_id, None)
        for person in self.people.values():
            person.groups.discard(list_id)

    def person(self, address: str) -> Person:
        address = address.lower()
        if address not in self.people:
            self.people[address] = Person(str(next(self._numbers)), address)
        return self.people[address]

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        message = {401: "Unauthenticated.", 429: "Too Many Attempts."}.get(status, "Server Error")
        if status == 429:
            headers = {"X-RateLimit-Limit": "120", "X-RateLimit-Remaining": "0", "Retry-After": "7", **(headers or {})}
        return web.json_response({"message": message}, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", "/api/{path:.*}", self._serve)]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return self.error(401)
        for header in ("Content-Type", "Accept"):
            if request.headers.get(header) != "application/json":
                self.violations.append(f"no {header}: application/json with {request.method} {request.path}")
        body = await request.read()
        status, told = self._dispatch(
            request.method, request.raw_path.split("?")[0], dict(request.query), json.loads(body) if body else None
        )
        return web.Response(status=status) if told is None else web.json_response(told, status=status)

    def _dispatch(self, method: str, path: str, query: dict[str, str], body: Any) -> Told:
        for its_method, pattern, handler in self._table:
            if its_method == method and (match := pattern.fullmatch(path.removeprefix("/"))):
                try:
                    return handler(Request(query, body, tuple(unquote(part) for part in match.groups())))
                except Refusal as refusal:
                    return refusal.told
        return 404, {"message": "Not Found"}

    def _post_batch(self, request: Request) -> Told:
        parts = request.only("requests")["requests"]
        if not 0 < len(parts) <= BATCHED:
            raise invalid(requests=f"The requests may not have more than {BATCHED} items.")
        if {(part["method"], part["path"]) for part in parts} == {("POST", "api/subscribers")}:
            self.violations.append("a batch that is run as an import, and whose report nobody gets")
        told = [self._dispatch(part["method"], part["path"], {}, part.get("body")) for part in parts]
        if self.part_status:
            told[-1] = self.part_status, {"message": "Too Many Attempts."}
        failed = sum(status >= 400 for status, _ in told)
        responses = [{"code": status, "body": body} for status, body in told]
        return 200, {"total": len(told), "successful": len(told) - failed, "failed": failed, "responses": responses}

    # Groups

    def _group_of(self, request: Request) -> str:
        if request.ids[-1] not in self.groups:
            raise Refusal(404, "Resource not found.")
        return request.ids[-1]

    def _get_groups(self, request: Request) -> Told:
        limit, page = request.limit(100, GROUPS), int(request.query.get("page", 1))
        shown = [{"id": number, "name": name} for number, name in self.groups.items()]
        meta = {"current_page": page, "per_page": limit, "total": len(shown)}
        return 200, {"data": shown[(page - 1) * limit : page * limit], "meta": meta}

    def _post_group(self, request: Request) -> Told:
        name = request.only("name").get("name") or ""
        if not 0 < len(name) <= 255:
            raise invalid(name="The name may not be greater than 255 characters.")
        if self.unique_names and name in self.groups.values():
            raise invalid(name="The name has already been taken.")
        return 201, {"data": {"id": self.make_list(name), "name": name}}

    def _delete_group(self, request: Request) -> Told:
        self.drop_list(self._group_of(request))
        return 204, None

    def _get_members(self, request: Request) -> Told:
        group = self._group_of(request)
        return self._page(request, 50, MEMBERS, [p for p in self.people.values() if group in p.groups], "active")

    def _get_subscribers(self, request: Request) -> Told:
        return self._page(request, 25, SUBSCRIBERS, list(self.people.values()), None)

    @staticmethod
    def _page(request: Request, default: int, most: int, people: list[Person], usual: str | None) -> Told:
        limit, start = request.limit(default, most), int(request.query.get("cursor", 0))
        status = request.query.get("filter[status]", usual)
        if request.query.keys() - {"filter[status]", "limit", "cursor"} or status not in (None, *STATUSES):
            raise invalid(status="The selected filter.status is invalid.")
        there = [p.shown() for p in people if status in (None, p.status)]
        following = str(start + limit) if start + limit < len(there) else None
        return 200, {"data": there[start : start + limit], "meta": {"per_page": limit, "next_cursor": following}}

    # Fields

    def _get_fields(self, request: Request) -> Told:
        limit = request.limit(100, FIELDS)
        shown = [{"id": str(n), "name": name, "key": key} for n, (key, name) in enumerate(self.fields.items())]
        return 200, {"data": shown[:limit], "meta": {"total": len(shown)}}

    def _post_field(self, request: Request) -> Told:
        body = request.only("name", "type")
        if body["type"] not in ("text", "number", "date"):
            raise invalid(type="The selected type is invalid.")
        if len(self.fields) >= FIELDS or body["name"] in self.fields.values():
            raise invalid(name="The name is not possible.")
        key = body["name"].lower().replace(" ", "_")
        self.fields[key] = body["name"]
        return 200, {"data": {"id": "1", "name": body["name"], "key": key, "type": body["type"]}}

    # Subscribers

    def _takes(self, address: str) -> bool:
        return bool(_ADDRESS.fullmatch(address)) and not address.lower().endswith("@" + self.refused_domain)

    def _write(self, person: Person, fields: dict[str, Any], groups: list[str]) -> bool:
        """Whether anything was new."""
        if unknown := fields.keys() - self.fields.keys():
            raise invalid(**{f"fields.{name}": "The field does not exist." for name in unknown})
        is_new = not (fields.items() <= person.fields.items() and person.groups.issuperset(groups))
        person.fields.update(fields)
        person.groups.update(groups)
        return is_new

    def _post_subscriber(self, request: Request) -> Told:
        body = request.only("email", "fields", "groups", "status", "resubscribe")
        if not self._takes(body.get("email") or ""):
            raise invalid(email="The email must be a valid email address.")
        if not set(body.get("groups", ())) <= self.groups.keys():
            raise invalid(**{"groups.0": "The selected groups.0 is invalid."})
        known = body["email"].lower() in self.people
        person = self.person(body["email"])
        if person.status in OUT and not body.get("resubscribe"):
            text = f"This subscriber is {person.status} and cannot be imported"
            refusal = invalid(email=text)
            refusal.told[1]["subscriber"] = person.id
            raise refusal
        person.status = "active" if body.get("resubscribe") else body.get("status", person.status)
        self._write(person, body.get("fields", {}), body.get("groups", []))
        return 200 if known else 201, {"data": self._detailed(person)}

    def _detailed(self, person: Person) -> dict[str, Any]:
        return person.shown() | {"groups": [{"id": g, "name": self.groups[g]} for g in sorted(person.groups)]}

    def _subscriber_of(self, request: Request) -> Person:
        asked = request.ids[0].lower()
        found = self.people.get(asked) or next((p for p in self.people.values() if p.id == asked), None)
        if found is None:
            raise Refusal(404, "Resource not found.")
        return found

    def _get_subscriber(self, request: Request) -> Told:
        return 200, {"data": self._detailed(self._subscriber_of(request))}

    def _put_subscriber(self, request: Request) -> Told:
        body = request.only("email", "fields", "groups", "status")
        person = self._subscriber_of(request)
        address = body.get("email", person.email).lower()
        if not self._takes(address) or (address != person.email and address in self.people):
            raise invalid(email="The email has already been taken.")
        if not self.fixed_addresses:
            self.people[address] = self.people.pop(person.email)
            person.email = address
        person.status = body.get("status", person.status)
        person.groups = set(body.get("groups", person.groups))  # replaced, not added to
        self._write(person, body.get("fields", {}), [])
        return 200, {"data": self._detailed(person)}

    def _unassign(self, request: Request) -> Told:
        person, group = self._subscriber_of(request), self._group_of(request)
        if group not in person.groups:
            raise Refusal(404)
        person.groups.discard(group)
        return 204, None

    # Imports

    def _post_import(self, request: Request) -> Told:
        group, rows = self._group_of(request), request.only("subscribers")["subscribers"]
        if not 0 < len(rows) <= ROWS or any(row.keys() != {"email", "fields"} for row in rows):
            raise invalid(subscribers="The subscribers are invalid.")
        bad = [f"subscribers.{n}.email" for n, row in enumerate(rows) if not self._takes(row["email"])]
        if bad and self.strict_imports:
            raise invalid(**dict.fromkeys(["subscribers"] if self.unnamed_rows else bad, "must be a valid address."))
        number = str(next(self._numbers))
        report = dict.fromkeys(("imported", "updated", "unchanged_count", "subscriber_limit_count"), 0)
        self._jobs[number] = [self.job_looks, lambda: self._run(group, rows, report), report]
        return 200, {"import_progress_url": f"{self.base_url}/api/subscribers/import/{number}"}

    def _run(self, group: str, rows: list[dict[str, Any]], report: dict[str, Any]) -> None:
        left_out: dict[str, list[dict[str, str]]] = {"invalid": [], "unsubscribed": [], "role_based": []}
        if self.stopped:
            report |= {"stopped_at": "2026-11-25T10:00:00Z", "subscriber_limit_count": len(rows)}
            return
        for row in rows:
            address = row["email"].lower()
            known = address in self.people
            if not self._takes(address):
                left_out["invalid"].append({"email": address})
            elif address.partition("@")[0] in self.role_names:
                left_out["role_based"].append({"email": address})
            elif known and self.people[address].status == "unsubscribed":
                left_out["unsubscribed"].append({"email": address})
            elif not known or self.people[address].status not in OUT:  # others who are out are not counted at all
                new = self._write(self.person(address), row["fields"], [group])
                report["unchanged_count" if not new else "updated" if known else "imported"] += 1
        for kind, some in left_out.items():
            report[kind], report[f"{kind}_count"] = some[:SAMPLES], len(some)

    def _get_import(self, request: Request) -> Told:
        if request.ids[0] not in self._jobs:
            raise Refusal(404)
        job = self._jobs[request.ids[0]]
        job[0] -= 1
        if job[0] == 0:
            job[1]()
        return 200, {"data": {"id": request.ids[0], "done": job[0] <= 0 and not self.stopped, **job[2]}}


class MailerliteHarness(FakeHarness):
    fake: FakeMailerlite

    async def lists(self) -> dict[str, str]:
        return dict(self.fake.groups)

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        return {
            person.email: (person.fields.get("name", ""), person.fields.get("last_name", ""))
            for person in self.fake.people.values()
            if list_id in person.groups and person.status == "active"
        }

    async def opt_out(self, address: str) -> None:
        self.fake.person(address).status = "unsubscribed"

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(list_id)

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def mailerlite(**knobs: Any) -> AbstractAsyncContextManager[MailerliteHarness]:
    """A running fake and an open provider on it."""
    fake = FakeMailerlite(**knobs)

    def harness() -> MailerliteHarness:
        settings = MailerliteSettings(api_key=Secret(KEY), base_url=f"{fake.base_url}/api")
        return MailerliteHarness(fake, MailerliteProvider(settings), [KEY])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeMailerlite, key=KEY)
