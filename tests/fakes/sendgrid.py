"""A strict SendGrid: Marketing Campaigns and suppressions as the fact page and the specs say, jobs included.

python -m tests.fakes.sendgrid --port 9002 --latency-s 0.2 --job-s 1
"""

import csv
import gzip
import io
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from time import monotonic, time
from typing import Any

import msgspec
from aiohttp import web

from providers.base import Secret
from providers.sendgrid import SendgridProvider, SendgridSettings
from providers.testing import EspHarness, Fault
from providers.testing.fake import Call, FakeEsp, run_forever
from tests.specs import Spec, spec

KEY = "SG.fake-key-of-the-tests.0123456789abcdefghijklmnopqrstuvwxyzABCDEF"
SPECS = ("mc_contacts", "mc_lists", "mc_custom_fields", "suppressions", "scopes")
# The names of the scopes that write are made up: no source tells the real ones.
SCOPES = frozenset({"marketing.read", "marketing.update", "suppression.read", "suppression.update"})

MAX_BODY_BYTES = 6 * 1024 * 1024
MAX_CONTACTS = 30_000
MAX_LISTS = 1000
MAX_IDS = 100
MAX_FIELDS = 500
GROUP = 1001

_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")
_FIELD_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_CONTACT_KEYS = {"email", "first_name", "last_name", "custom_fields", "external_id", "alternate_emails"}


@dataclass
class Person:
    """A contact of the account."""

    id: str
    email: str
    first_name: str = ""
    last_name: str = ""
    lists: set[str] = field(default_factory=set)
    custom_fields: dict[str, str] = field(default_factory=dict)
    alternate_emails: list[str] = field(default_factory=list)


@dataclass
class Job:
    """Work that the fake has accepted and does later."""

    work: Callable[[], dict[str, Any]]
    polls_left: int
    ready_at_s: float
    told: dict[str, Any] | None = None  # status and results once done


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        self.status = status
        self.errors: list[dict[str, Any]] = [{"field": field, "message": message}]


@dataclass
class FakeSendgrid(FakeEsp):
    """Jobs are done in the order of their acceptance, each after `job_polls` looks at it and `job_s` seconds."""

    job_s: float = 0.0
    job_polls: int = 0
    scopes: frozenset[str] = SCOPES
    legacy: bool = False  # the account has no Marketing Campaigns, whatever the key may do
    opt_out_everywhere: bool = False  # people unsubscribe from everything instead of from one group
    lists_per_page: int = MAX_LISTS
    rows_per_file: int = 1_000_000
    contact_limit: int | None = None
    errors_per_answer: int | None = None  # of the bad contacts of a call; None: all are named
    bad_in_job: frozenset[str] = frozenset()  # addresses that pass the call and are refused by the job
    job_endings: list[str] = field(default_factory=list)  # how the next upsert jobs end instead of being done
    silent_reports: bool = False  # jobs name nobody whom they refuse
    refused_domain: str = "refused.test"
    calls_left: int | None = None  # before the rate limit
    reset_in_s: int = 7  # of the rate limit
    html_404: bool = False  # a proxy in front knows no path
    statuses: list[int | None] = field(default_factory=list)  # of the next answers; None: answered well
    removal_endings: list[str] = field(default_factory=list)  # how the next removal jobs end
    files_at: str | None = None  # where reports and exports are said to be; None: here
    gzip_files: bool = False
    upsert_bytes: list[int] = field(default_factory=list)  # size of each upsert's body
    lists: dict[str, str] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)  # by address
    fields: dict[str, dict[str, str]] = field(default_factory=dict)  # by id
    groups: dict[int, set[str]] = field(default_factory=lambda: {GROUP: set(), GROUP + 1: set()})
    suppressed: dict[str, set[str]] = field(
        default_factory=lambda: {"unsubscribes": set(), "spam_reports": set(), "bounces": set()}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._jobs: dict[str, Job] = {}
        self._files: dict[str, str] = {}
        self._field_numbers = count(1)

    # What tests do by hand

    def opt_out(self, address: str) -> None:
        place = self.suppressed["unsubscribes"] if self.opt_out_everywhere else self.groups[GROUP]
        place.add(address.lower())

    def kept_out(self) -> set[str]:
        return set().union(*self.groups.values(), *self.suppressed.values())

    def make_list(self, name: str) -> str:
        list_id = str(uuid.uuid4())
        self.lists[list_id] = name
        return list_id

    def drop_list(self, list_id: str) -> None:
        self.lists.pop(list_id, None)
        for person in self.people.values():
            person.lists.discard(list_id)

    def add(self, address: str, *list_ids: str, **fields: Any) -> Person:
        """Puts a contact into the account by hand."""
        person = Person(str(uuid.uuid4()), address, lists=set(list_ids), **fields)
        self.people[address] = person
        return person

    def settle(self) -> None:
        """Does all jobs now."""
        for job in self._jobs.values():
            if job.told is None:
                job.told = job.work()

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        message = {401: "authorization required", 429: "too many requests"}.get(status, HTTPStatus(status).phrase)
        if status == 429 and headers is None:
            headers = {"X-RateLimit-Limit": "600", "X-RateLimit-Remaining": "0"}
            headers["X-RateLimit-Reset"] = str(int(time()) + self.reset_in_s)
        return web.json_response({"errors": [{"field": None, "message": message}]}, status=status, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        table = [
            ("GET", "/scopes", self._get_scopes),
            ("GET", "/marketing/lists", self._get_lists),
            ("POST", "/marketing/lists", self._post_list),
            ("GET", "/marketing/lists/{list_id}", self._get_list),
            ("DELETE", "/marketing/lists/{list_id}", self._delete_list),
            ("DELETE", "/marketing/lists/{list_id}/contacts", self._take_off),
            ("GET", "/marketing/field_definitions", self._get_fields),
            ("POST", "/marketing/field_definitions", self._post_field),
            ("PUT", "/marketing/contacts", self._put_contacts),
            ("DELETE", "/marketing/contacts", self._delete_contacts),
            ("GET", "/marketing/contacts/imports/{job_id}", self._get_job),
            ("POST", "/marketing/contacts/search/emails", self._search_emails),
            ("POST", "/marketing/contacts/search/identifiers/email", self._search_identifiers),
            ("POST", "/marketing/contacts/exports", self._post_export),
            ("GET", "/marketing/contacts/exports/{job_id}", self._get_export),
            ("GET", "/asm/suppressions", self._get_group_suppressions),
            ("GET", "/asm/suppressions/{address}", self._get_groups_of),
            ("POST", "/asm/suppressions/global", self._post_global),
            ("GET", "/asm/suppressions/global/{address}", self._get_global),
            ("POST", "/asm/groups/{group}/suppressions", self._post_group),
            ("GET", "/suppression/{kind}", self._get_suppressed),
            ("GET", "/suppression/spam_reports/{address}", self._get_spam_report),
        ]
        routes = [web.route(method, f"/v3{path}", self._guarded(handler)) for method, path, handler in table]
        return [*routes, web.get("/files/{name}", self._get_file)]

    def _note(self, request: web.Request, body: bytes) -> None:
        if not request.path.startswith("/files/"):
            super()._note(request, body)
            return
        self.calls.append(Call(request.method, request.path, dict(request.query), None))
        if "Authorization" in request.headers:
            self.violations.append("the key went to the host of the files")

    def _guarded(
        self, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def guarded(request: web.Request) -> web.Response:
            self._work_off()
            if self.html_404:
                return web.Response(status=404, text="<html>404</html>", content_type="text/html")
            if self.statuses and (status := self.statuses.pop(0)):
                return self.error(status)
            if request.headers.get("Authorization") != f"Bearer {KEY}":
                return self.error(401)
            if self.calls_left == 0:
                return self.error(429)
            if not self._may(request):
                return web.json_response({"errors": [{"field": None, "message": "access forbidden"}]}, status=403)
            left = 599 if self.calls_left is None else self.calls_left - 1
            self.calls_left = None if self.calls_left is None else left
            try:
                response = await handler(request)
            except Refusal as refusal:
                response = web.json_response({"errors": refusal.errors}, status=refusal.status)
            response.headers["X-RateLimit-Limit"] = "600"
            response.headers["X-RateLimit-Remaining"] = str(left)
            response.headers["X-RateLimit-Reset"] = str(int(time()) + 60)
            return response

        return guarded

    def _may(self, request: web.Request) -> bool:
        area = request.path.split("/")[2]
        if area == "scopes":
            return True
        if area == "marketing" and self.legacy:
            return False
        reads = request.method == "GET" or "/search/" in request.path
        return f"{'marketing' if area == 'marketing' else 'suppression'}.{'read' if reads else 'update'}" in self.scopes

    async def _get_scopes(self, request: web.Request) -> web.Response:
        return web.json_response({"scopes": sorted(self.scopes)})

    # Lists

    async def _get_lists(self, request: web.Request) -> web.Response:
        size = min(int(request.query.get("page_size", 100)), self.lists_per_page)
        start = int(request.query.get("page_token") or 0)
        rows = [{"id": list_id, "name": name, "contact_count": 0} for list_id, name in self.lists.items()]
        metadata: dict[str, Any] = {"count": len(rows)}
        if start + size < len(rows):
            metadata["next"] = f"https://api.sendgrid.com/v3/marketing/lists?page_size={size}&page_token={start + size}"
        return web.json_response({"result": rows[start : start + size], "_metadata": metadata})

    async def _post_list(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"name"})
        if not 1 <= len(body["name"]) <= 100:
            raise Refusal(400, "name must have 1 to 100 characters", "name")
        if body["name"] in self.lists.values():
            raise Refusal(400, "a list with that name exists already", "name")
        if len(self.lists) >= MAX_LISTS:
            raise Refusal(400, "no more lists can be made")
        list_id = self.make_list(body["name"])
        return web.json_response({"id": list_id, "name": body["name"], "contact_count": 0}, status=201)

    async def _get_list(self, request: web.Request) -> web.Response:
        list_id = request.match_info["list_id"]
        if list_id not in self.lists:
            return web.json_response([{"message": "list not found"}], status=404)
        return web.json_response({"id": list_id, "name": self.lists[list_id], "contact_count": 0})

    async def _delete_list(self, request: web.Request) -> web.Response:
        if "delete_contacts" in request.query:
            self.violations.append("contacts were deleted together with a list")
        if request.match_info["list_id"] not in self.lists:
            raise Refusal(404, "list not found")
        self.drop_list(request.match_info["list_id"])
        return web.Response(status=204)

    # Fields

    async def _get_fields(self, request: web.Request) -> web.Response:
        reserved = [{"id": "_rf0_T", "name": "first_name", "field_type": "Text"}]
        return web.json_response({"custom_fields": list(self.fields.values()), "reserved_fields": reserved})

    async def _post_field(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"name", "field_type"})
        if not _FIELD_NAME.fullmatch(body["name"]) or body["field_type"] not in ("Text", "Number", "Date"):
            raise Refusal(400, "invalid field definition")
        if body["name"].lower() in {one["name"].lower() for one in self.fields.values()}:
            raise Refusal(400, "a field with that name exists already", "name")
        if len(self.fields) >= MAX_FIELDS:
            raise Refusal(400, "no more fields can be made")
        return web.json_response(self.make_field(body["name"], body["field_type"]))

    def make_field(self, name: str, field_type: str = "Text") -> dict[str, str]:
        field_id = f"e{next(self._field_numbers)}_{field_type[0]}"
        self.fields[field_id] = {"id": field_id, "name": name, "field_type": field_type}
        return self.fields[field_id]

    # Contacts

    async def _put_contacts(self, request: web.Request) -> web.Response:
        self.upsert_bytes.append(len(await request.read()))
        if self.upsert_bytes[-1] > MAX_BODY_BYTES:
            self.violations.append("an upsert of more than 6 MB")
            raise Refusal(413, "request entity too large")
        body = await self._body(request, {"contacts", "list_ids"})
        contacts, list_ids = body["contacts"], set(body.get("list_ids", ()))
        if not 1 <= len(contacts) <= MAX_CONTACTS:
            self.violations.append(f"an upsert of {len(contacts)} contacts")
            raise Refusal(400, "contacts must be 1 to 30000", "contacts")
        if not list_ids <= self.lists.keys():
            raise Refusal(404, "one or more lists do not exist", "list_ids")
        errors = [error for index, row in enumerate(contacts) if (error := self._complaint(index, row))]
        if errors:
            refusal = Refusal(400, "")
            refusal.errors = errors[: self.errors_per_answer]
            raise refusal
        ending = self.job_endings.pop(0) if self.job_endings else None
        return self._accepted(lambda: self._upsert(contacts, list_ids, ending), 202)

    def _complaint(self, index: int, row: dict[str, Any]) -> dict[str, str] | None:
        where = f"contacts[{index}]"
        if unknown := row.keys() - _CONTACT_KEYS:
            return {"field": where, "message": f"unknown fields {sorted(unknown)}"}
        if not self._is_address(row.get("email", "")) or row["email"].endswith(f"@{self.refused_domain}"):
            return {"field": f"{where}.identifier", "message": f"email '{row.get('email')}' is not valid"}
        for name in ("first_name", "last_name"):
            if len(row.get(name, "")) > 50:
                return {"field": f"{where}.{name}", "message": "length should be less than 50 chars"}
        if not row.get("custom_fields", {}).keys() <= self.fields.keys():
            return {"field": f"{where}.custom_fields", "message": "unknown custom field"}
        return None

    @staticmethod
    def _is_address(text: str) -> bool:
        return len(text) <= 254 and _ADDRESS.fullmatch(text) is not None

    def _upsert(self, contacts: list[dict[str, Any]], list_ids: set[str], ending: str | None) -> dict[str, Any]:
        if ending is not None:
            return {"status": ending, "results": {"requested_count": len(contacts), "errored_count": len(contacts)}}
        bad: dict[str, str] = {}
        for row in contacts:
            address = row["email"].lower()
            if address in self.bad_in_job:
                bad[address] = "invalid email"
            elif address not in self.people and len(self.people) == self.contact_limit:
                bad[address] = "you have hit your contact limit"
            else:
                person = self.people.get(address) or self.add(address)
                person.lists |= list_ids & self.lists.keys()
                person.first_name = row.get("first_name", person.first_name)
                person.last_name = row.get("last_name", person.last_name)
                # Kept and shown by name, taken by id.
                person.custom_fields |= {self.fields[key]["name"]: v for key, v in row["custom_fields"].items()}
        if not bad:
            return {"status": "completed", "results": {"requested_count": len(contacts)}}
        report = [["row", "email", "error"]]
        if not self.silent_reports:
            report += [[str(n), address, why] for n, (address, why) in enumerate(bad.items(), 2)]
        results = {"requested_count": len(contacts), "errored_count": len(bad), "errors_url": self._file(report)}
        return {"status": "failed" if len(bad) == len(contacts) else "errored", "results": results}

    async def _delete_contacts(self, request: web.Request) -> web.Response:
        ids = self._ids(request, "ids")
        return self._accepted(lambda: self._forget(ids), 202)

    def _forget(self, ids: set[str]) -> dict[str, Any]:
        self.people = {address: person for address, person in self.people.items() if person.id not in ids}
        return {"status": "completed", "job_type": "delete", "results": {"deleted_count": len(ids)}}

    async def _take_off(self, request: web.Request) -> web.Response:
        list_id = request.match_info["list_id"]
        ids = self._ids(request, "contact_ids")
        if list_id not in self.lists or not ids <= {person.id for person in self.people.values()}:
            raise Refusal(404, "the list or a contact does not exist")
        ending = {"status": self.removal_endings.pop(0)} if self.removal_endings else None
        return self._accepted(lambda: ending or self._leave(list_id, ids), 202)

    def _leave(self, list_id: str, ids: set[str]) -> dict[str, Any]:
        for person in self.people.values():
            if person.id in ids:
                person.lists.discard(list_id)
        return {"status": "completed", "job_type": "delete", "results": {"deleted_count": len(ids)}}

    def _ids(self, request: web.Request, parameter: str) -> set[str]:
        ids = [one for one in request.query.get(parameter, "").split(",") if one]
        if not ids:
            raise Refusal(400, f"{parameter} is required", parameter)
        if len(ids) > MAX_IDS:
            self.violations.append(f"{len(ids)} ids in one call")
        return set(ids)

    async def _search_emails(self, request: web.Request) -> web.Response:
        addresses = (await self._body(request, {"emails"}))["emails"]
        if any(len(address) > 100 for address in addresses):
            raise Refusal(400, "email exceeds 100 characters", "emails")
        return self._found(addresses, alternates=True)

    async def _search_identifiers(self, request: web.Request) -> web.Response:
        return self._found((await self._body(request, {"identifiers"}))["identifiers"], alternates=False)

    def _found(self, addresses: list[str], *, alternates: bool) -> web.Response:
        if len(addresses) > MAX_IDS:
            self.violations.append(f"{len(addresses)} addresses in one search")
            raise Refusal(400, "too many addresses")
        if not all(map(self._is_address, addresses)):
            raise Refusal(400, "invalid email address")
        result: dict[str, Any] = {}
        for address in (address.lower() for address in addresses):
            found = self.people.get(address)
            if found is None and alternates:
                found = next((p for p in self.people.values() if address in p.alternate_emails), None)
            result[address] = {"contact": self._shown(found)} if found else {"error": "contact not found"}
        if not any("contact" in hit for hit in result.values()):
            raise Refusal(404, "not found")
        return web.json_response({"result": result})

    @staticmethod
    def _shown(person: Person) -> dict[str, Any]:
        return {
            "id": person.id,
            "email": person.email,
            "first_name": person.first_name,
            "last_name": person.last_name,
            "list_ids": sorted(person.lists),
            "segment_ids": None,
            "alternate_emails": person.alternate_emails,
            "custom_fields": person.custom_fields,
        }

    # Jobs, exports and their files

    def _accepted(self, work: Callable[[], dict[str, Any]], status: int, key: str = "job_id") -> web.Response:
        job_id = str(uuid.uuid4())
        self._jobs[job_id] = Job(work, self.job_polls, monotonic() + self.job_s)
        return web.json_response({key: job_id, "_metadata": {}} if key == "id" else {key: job_id}, status=status)

    @property
    def has_jobs(self) -> bool:
        return bool(self._jobs)

    def _work_off(self) -> None:
        for job in self._jobs.values():
            if job.told is None:
                if job.polls_left or job.ready_at_s > monotonic():
                    return
                job.told = job.work()

    def _looked_at(self, request: web.Request) -> Job:
        job = self._jobs.get(request.match_info["job_id"])
        if job is None:
            raise Refusal(404, "job not found")
        if job.polls_left:
            # A look at one job is time that passes for those before it.
            for earlier in self._jobs.values():
                earlier.polls_left = min(earlier.polls_left, job.polls_left - 1)
                if earlier is job:
                    break
        elif job.told is None:
            self._work_off()
        return job

    async def _get_job(self, request: web.Request) -> web.Response:
        job = self._looked_at(request)
        return web.json_response({"id": request.match_info["job_id"], **(job.told or {"status": "pending"})})

    async def _post_export(self, request: web.Request) -> web.Response:
        body = await self._body(request, {"list_ids", "file_type", "max_file_size"})
        if not set(body["list_ids"]) <= self.lists.keys():
            raise Refusal(404, "list not found")
        return self._accepted(lambda: self._export(body["list_ids"][0]), 202, key="id")

    def _export(self, list_id: str) -> dict[str, Any]:
        head = ["EMAIL", "FIRST_NAME", "LAST_NAME", "CONTACT_ID", "planfix_id"]
        rows = [
            [p.email, p.first_name, p.last_name, p.id, p.custom_fields.get("planfix_id", "")]
            for p in self.people.values()
            if list_id in p.lists
        ]
        starts = range(0, max(len(rows), 1), self.rows_per_file)
        return {"status": "ready", "urls": [self._file([head, *rows[i : i + self.rows_per_file]]) for i in starts]}

    async def _get_export(self, request: web.Request) -> web.Response:
        job = self._looked_at(request)
        times = dict.fromkeys(("created_at", "updated_at", "expires_at"), "2026-11-23T10:00:00Z")
        return web.json_response({"id": request.match_info["job_id"], **times, **(job.told or {"status": "pending"})})

    def _file(self, rows: Iterable[Iterable[str]]) -> str:
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        name = str(uuid.uuid4())
        self._files[name] = text.getvalue()
        return f"{self.files_at or self.base_url}/files/{name}?signature=made-up"

    async def _get_file(self, request: web.Request) -> web.Response:
        text = self._files[request.match_info["name"]].encode()
        return web.Response(body=gzip.compress(text) if self.gzip_files else text, content_type="text/csv")

    # Suppressions

    async def _get_group_suppressions(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {"email": address, "group_id": group, "group_name": f"Group {group}", "created_at": 1}
                for group, addresses in self.groups.items()
                for address in sorted(addresses)
            ]
        )

    async def _get_groups_of(self, request: web.Request) -> web.Response:
        address = self._address(request)
        shown = [
            {"id": group, "name": f"Group {group}", "description": "", "is_default": False}
            | {"suppressed": address in addresses}
            for group, addresses in self.groups.items()
        ]
        return web.json_response({"suppressions": shown})

    async def _get_global(self, request: web.Request) -> web.Response:
        address = self._address(request)
        out = address in self.suppressed["unsubscribes"]
        return web.json_response({"recipient_email": address} if out else {})

    async def _get_spam_report(self, request: web.Request) -> web.Response:
        address = self._address(request)
        out = address in self.suppressed["spam_reports"]
        return web.json_response([{"created": 1, "email": address, "ip": "192.0.2.1"}] if out else [])

    async def _get_suppressed(self, request: web.Request) -> web.Response:
        limit, offset = int(request.query.get("limit", 500)), int(request.query.get("offset", 0))
        rows = sorted(self.suppressed[request.match_info["kind"]])[offset : offset + limit]
        return web.json_response([{"created": 1, "email": address} for address in rows])

    async def _post_global(self, request: web.Request) -> web.Response:
        return await self._suppress(request, self.suppressed["unsubscribes"])

    async def _post_group(self, request: web.Request) -> web.Response:
        # A group that is gone silently means all mail.
        group = self.groups.get(int(request.match_info["group"]), self.suppressed["unsubscribes"])
        return await self._suppress(request, group)

    async def _suppress(self, request: web.Request, place: set[str]) -> web.Response:
        body = await self._body(request, {"recipient_emails"})
        place.update(address.lower() for address in body["recipient_emails"])
        return web.json_response(body, status=201)

    @staticmethod
    def _address(request: web.Request) -> str:
        return request.match_info["address"].lower()

    @staticmethod
    async def _body(request: web.Request, keys: set[str]) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(await request.read())
        if unknown := body.keys() - keys:
            raise Refusal(400, f"unknown fields {sorted(unknown)}")
        return body


def sendgrid_spec() -> Spec | None:
    """None where `../shared` is not there (a user's machine)."""
    return spec("sendgrid", *(f"tsg_{name}_v3.json" for name in SPECS))


class QuickSendgridProvider(SendgridProvider):
    """Looks at jobs at once: the fake needs no time for them."""

    first_poll_s = 0.001


class SendgridHarness(EspHarness):
    """The provider and its fake: `async with SendgridHarness(...) as esp`. Keywords are knobs of the fake."""

    provider: QuickSendgridProvider

    def __init__(self, *, validate: bool = True, **knobs: Any) -> None:
        self.fake = FakeSendgrid(
            spec=sendgrid_spec() if validate else None, parallel_limit=SendgridProvider.limits.parallel_calls, **knobs
        )

    async def __aenter__(self) -> "SendgridHarness":
        base_url = await self.fake.start()
        self.provider = QuickSendgridProvider(SendgridSettings(api_key=Secret(KEY), base_url=base_url))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.provider.close()
        await self.fake.stop()

    async def reopen(self, **settings: Any) -> None:
        """A new provider object with some settings replaced."""
        await self.provider.close()
        self.provider = QuickSendgridProvider(msgspec.structs.replace(self.provider.settings, **settings))

    async def lists(self) -> dict[str, str]:
        return dict(self.fake.lists)

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        self.fake.settle()
        out = self.fake.kept_out()
        return {
            address: (person.first_name, person.last_name)
            for address, person in self.fake.people.items()
            if list_id in person.lists and address not in out
        }

    async def opt_out(self, address: str) -> None:
        self.fake.opt_out(address)

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(list_id)

    def fail(self, fault: Fault, times: int = 1, after: int = 0) -> None:
        self.fake.fail(fault, times, after)

    def heal(self) -> None:
        self.fake.heal()

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"

    def calls(self) -> int:
        return len(self.fake.calls)

    def violations(self) -> list[str]:
        return self.fake.violations

    def secrets(self) -> list[str]:
        return [KEY]


if __name__ == "__main__":
    run_forever(FakeSendgrid, key=KEY, job_s=0.0)
