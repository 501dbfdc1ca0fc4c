"""A strict UniSender: lists, fields, imports and exports, as the fact page says.

Where the documentation is silent it is as bad for opt-outs as it may be: an import puts back who left a list, and says
nothing of a list that does not exist.

python -m tests.fakes.unisender --port 9012 --latency-s 0.2
"""

import csv
import gzip
import io
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from msgspec.structs import replace

from providers.base import Secret
from providers.testing.fake import Call, FakeEsp, FakeHarness, run_forever, running
from providers.unisender import UniSenderProvider, UniSenderSettings

KEY = "6fake0key0of0the0tests0only0six7kd3yxpn8cbaegyw"
PATH = "/en/api/"
_ADDRESS = re.compile(r"[^\s@]{1,64}@[\w-]+(\.[\w-]+)+")
_MAILABLE = ("new", "active")
_SYSTEM = {"email", "email_status", "email_list_ids", "email_unsubscribed_list_ids", "email_excluded_list_ids"}
_EXPORTED = {"email", "email_status", "email_availability", "email_list_ids", "email_unsubscribed_list_ids"}
Form = Mapping[str, str]


@dataclass
class Person:
    email: str
    status: str = "new"
    availability: str = "available"
    lists: dict[int, str] = field(default_factory=dict)  # list → state of the address on it
    fields: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, text: str, code: str = "unspecified") -> None:
        super().__init__(text)
        self.answer = web.json_response({"error": text, "code": code, "result": ""})


@dataclass
class FakeUniSender(FakeEsp):
    """`opt_outs_of` is what a click in a mail ends: "list" for the lists that the person is on, "account" for all
    mail. Exports are done when they are looked at for the time `export_looks`."""

    opt_outs_of: str = "list"
    import_heeds_lists: bool = False
    export_looks: int = 1
    export_ends: str = "completed"
    export_separator: str = ","
    export_packed: bool = False
    export_without: str = ""
    export_cut_bytes: int = 0  # what is missing at the end of a file
    tells_lists: bool = True
    counts_refused: bool = True  # else the log alone tells who was not imported
    warns_of: str = ""  # an address that is imported with a warning
    refuses_all_for: str = ""  # an address for which an import is refused as a whole
    is_silent: bool = False  # imports tell how many were refused, not who
    lists_ignore_case: bool = False
    always: Any = None  # the answer to every call
    only_counts: bool = False  # imports are counted and change nothing, for large numbers
    refused_names: tuple[str, ...] = ("info", "sales", "no-reply", "all")
    lists: dict[int, str] = field(default_factory=dict)
    fields: list[str] = field(default_factory=lambda: ["Name"])
    people: dict[str, Person] = field(default_factory=dict)  # by address in small letters

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(1)
        self._exports: dict[str, list[Any]] = {}  # looks left, list, columns

    # What tests do by hand

    def make_list(self, name: str) -> str:
        number = next(self._numbers)
        self.lists[number] = name
        return str(number)

    def drop_list(self, list_id: int) -> None:
        self.lists.pop(list_id, None)
        for person in self.people.values():
            person.lists.pop(list_id, None)

    def person(self, address: str) -> Person:
        return self.people.setdefault(address.lower(), Person(address.lower()))

    def asked(self, method: str) -> list[dict[str, str]]:
        """The bodies of the calls of one method."""
        return [dict(parse_qsl(c.body.decode())) for c in self.calls if c.path == PATH + method]

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        """Everything is answered with 200, whatever it is."""
        codes = {401: "invalid_api_key", 403: "access_denied", 429: "api_call_limit_exceeded_for_api_key"}
        return web.json_response(
            {"error": "see the code", "code": codes.get(status, "retry_later"), "result": ""}, headers=headers
        )

    def routes(self) -> list[web.RouteDef]:
        methods: dict[str, Callable[[Form], Any]] = {
            "getLists": self._get_lists,
            "createList": self._create_list,
            "deleteList": self._delete_list,
            "getFields": self._get_fields,
            "createField": self._create_field,
            "getContact": self._get_contact,
            "importContacts": self._import,
            "exclude": self._exclude,
            "unsubscribe": self._unsubscribe,
            "async/exportContacts": self._export,
            "async/getTaskResult": self._task,
        }
        routes = [web.post(PATH + method, self._guarded(handler)) for method, handler in methods.items()]
        return [*routes, web.get("/files/{task}", self._get_file)]

    def _note(self, request: web.Request, body: bytes) -> None:
        # The bodies are forms of up to 2,500 fields: they are not tried as JSON.
        self.calls.append(Call(request.method, request.path, dict(request.query), body))

    def _guarded(self, handler: Callable[[Form], Any]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self.always is not None:
                return web.json_response(self.always)
            if self.only_counts and request.path.endswith("importContacts"):
                return web.json_response({"result": {"invalid": 0, "log": []}})
            form = dict(parse_qsl((await request.read()).decode(), keep_blank_values=True))
            if request.query:
                return web.json_response({"error": "Call to a member function getMessage() on boolean"})
            if request.content_type != "application/x-www-form-urlencoded" or form.pop("format", None) != "json":
                self.violations.append("a call that is no form, or does not ask for JSON")
            if form.pop("api_key", None) != KEY:
                return self.error(401)
            try:
                return web.json_response({"result": handler(form)})
            except Refusal as refusal:
                return refusal.answer

        return guarded

    @staticmethod
    def _only(form: Form, *names: str) -> None:
        if unknown := form.keys() - set(names):
            raise Refusal(f"unknown {sorted(unknown)}", "invalid_arg")

    def _get_lists(self, form: Form) -> Any:
        self._only(form)
        return [{"id": number, "title": title} for number, title in self.lists.items()]

    def _create_list(self, form: Form) -> Any:
        self._only(form, "title")
        same = str.casefold if self.lists_ignore_case else str
        if not form.get("title") or same(form["title"]) in map(same, self.lists.values()):
            raise Refusal("This list already exists", "invalid_arg")
        return {"id": int(self.make_list(form["title"]))}

    def _delete_list(self, form: Form) -> Any:
        self._only(form, "list_id")
        if int(form["list_id"]) not in self.lists:
            raise Refusal("List not found", "invalid_arg")
        self.drop_list(int(form["list_id"]))
        return {}

    def _get_fields(self, form: Form) -> Any:
        self._only(form)
        return [{"id": number, "name": name, "type": "string"} for number, name in enumerate(self.fields)]

    def _create_field(self, form: Form) -> Any:
        self._only(form, "name", "type", "public_name")
        if not re.fullmatch(r"[A-Za-z][\w-]*", form["name"]) or form["name"] in {*self.fields, *_SYSTEM}:
            raise Refusal("wrong or known name", "invalid_arg")
        self.fields.append(form["name"])
        return {"id": len(self.fields)}

    def _known(self, address: str) -> Person:
        if address.lower() not in self.people:
            raise Refusal(f'Contact "{address}" not found')
        return self.people[address.lower()]

    def _get_contact(self, form: Form) -> Any:
        self._only(form, "email", "include_lists", "include_fields", "include_details")
        person = self._known(form["email"])
        lists = [{"id": number, "status": status, "added_at": ""} for number, status in person.lists.items()]
        email = {"email": person.email, "status": person.status, "availability": person.availability}
        return {"email": email} | ({"lists": lists} if form.get("include_lists") == "1" and self.tells_lists else {})

    def _import(self, form: Form) -> Any:
        for flag in ("overwrite_lists", "overwrite_tags"):
            if form.get(flag, "0") != "0":
                self.violations.append(f"{flag} takes away what others have set")
        columns: list[str] = []
        rows: dict[int, dict[int, str]] = {}
        for key, value in form.items():
            if key.startswith("data["):
                row, column = key[5:-1].split("][")
                rows.setdefault(int(row), {})[int(column)] = value
            elif key.startswith("field_names["):
                columns.append(value)
            elif not key.startswith("overwrite_"):
                raise Refusal(f"unknown {key}", "invalid_arg")
        if "email" not in columns or set(columns) - _SYSTEM - set(self.fields) or len(columns) > 50:
            raise Refusal("wrong columns", "invalid_arg")
        if not 0 < len(rows) <= 500 or any(len(row) != len(columns) for row in rows.values()):
            raise Refusal("too many contacts, or rows of another length", "invalid_arg")
        if self.refuses_all_for and any(self.refuses_all_for in row.values() for row in rows.values()):
            raise Refusal("Contacts already exist but owned by different subscribers")
        log, inserted = [], 0
        for index, row in rows.items():
            told = dict(zip(columns, row.values(), strict=True))
            address = told["email"].lower()
            if not _ADDRESS.fullmatch(address) or address.partition("@")[0] in self.refused_names:
                log.append({"index": index, "code": "danger", "message": f"{address} is not imported"})
                continue
            if address == self.warns_of:
                log.append({"index": index, "code": "warning", "message": f"{address}: a field was cut"})
            inserted += address not in self.people
            self._write(address, told)
        invalid = len([entry for entry in log if entry["code"] == "danger"])
        return {
            "total": len(rows),
            "inserted": inserted,
            "updated": len(rows) - inserted - invalid,
            "deleted": 0,
            "new_emails": 0,
            "invalid": invalid if self.counts_refused else 0,
            "log": [] if self.is_silent else log,
        }

    def _write(self, address: str, told: Form) -> None:
        is_new = address not in self.people
        person = self.person(address)
        if "email_status" in told and (is_new or person.status in ("active", "inactive")):
            person.status = told["email_status"]
        for number in self._numbers_in(told.get("email_list_ids")):
            if not (self.import_heeds_lists and person.lists.get(number) == "unsubscribed"):
                person.lists[number] = "active"
        for number in self._numbers_in(told.get("email_unsubscribed_list_ids")):
            person.lists[number] = "unsubscribed"
        for number in self._numbers_in(told.get("email_excluded_list_ids")):
            person.lists.pop(number, None)
        person.fields |= {name: value for name, value in told.items() if name not in _SYSTEM}

    def _numbers_in(self, told: str | None) -> list[int]:
        return [int(one) for one in (told or "").split(",") if one and int(one) in self.lists]

    def _on_list(self, form: Form) -> tuple[Person, int]:
        self._only(form, "contact_type", "contact", "list_ids")
        person = self._known(form["contact"])
        if form["contact_type"] != "email" or int(form["list_ids"]) not in person.lists:
            raise Refusal(f'Contact "{form["contact"]}" not found')
        return person, int(form["list_ids"])

    def _exclude(self, form: Form) -> Any:
        person, number = self._on_list(form)
        del person.lists[number]
        return {}

    def _unsubscribe(self, form: Form) -> Any:
        person, number = self._on_list(form)
        person.lists[number] = "unsubscribed"
        return {}

    def _export(self, form: Form) -> Any:
        columns = [value for key, value in form.items() if key.startswith("field_names[")]
        self._only({key: "" for key in form if not key.startswith("field_names[")}, "list_id")
        list_id = int(form["list_id"]) if "list_id" in form else None
        if list_id not in {None, *self.lists} or set(columns) - _EXPORTED - set(self.fields):
            raise Refusal("wrong list or columns", "invalid_arg")
        task = f"0bf3a9a0-{next(self._numbers)}"
        self._exports[task] = [self.export_looks, list_id, columns]
        return {"task_uuid": task, "status": "new"}

    def _task(self, form: Form) -> Any:
        self._only(form, "task_uuid")
        self._exports[form["task_uuid"]][0] -= 1
        if self._exports[form["task_uuid"]][0] > 0:
            return {"task_uuid": form["task_uuid"], "status": "processing"}
        told = {"task_uuid": form["task_uuid"], "status": self.export_ends}
        return told | {"file_to_download": f"{self.base_url}/files/{form['task_uuid']}"}

    async def _get_file(self, request: web.Request) -> web.Response:
        _, list_id, columns = self._exports[request.match_info["task"]]
        columns = [column for column in columns if column != self.export_without]
        file = io.StringIO()
        writer = csv.writer(file, delimiter=self.export_separator)
        writer.writerow(columns)
        for person in self.people.values():
            if list_id is None or list_id in person.lists or person.fields.get("phone_on") == str(list_id):
                writer.writerow([self._cell(person, column) for column in columns])
        body = file.getvalue().encode()
        body = gzip.compress(body) if self.export_packed else body
        return web.Response(body=body[: len(body) - self.export_cut_bytes], content_type="text/csv")

    @staticmethod
    def _cell(person: Person, column: str) -> str:
        left = [str(number) for number, status in person.lists.items() if status == "unsubscribed"]
        on = [str(number) for number, status in person.lists.items() if status != "unsubscribed"]
        system = {
            "email": person.email,
            "email_status": person.status,
            "email_availability": person.availability,
            "email_list_ids": ",".join(on),
            "email_unsubscribed_list_ids": ",".join(left),
        }
        return system.get(column, person.fields.get(column, ""))


class UniSenderHarness(FakeHarness):
    fake: FakeUniSender

    async def lists(self) -> dict[str, str]:
        return {str(number): name for number, name in self.fake.lists.items()}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        return {
            person.email: (person.fields.get("Name", ""), person.fields.get("LastName", ""))
            for person in self.fake.people.values()
            if person.lists.get(int(list_id)) == "active"
            and person.status in _MAILABLE
            and person.availability == "available"
        }

    async def opt_out(self, address: str) -> None:
        person = self.fake.person(address)
        if self.fake.opt_outs_of == "account" or not person.lists:
            person.status = "unsubscribed"
        person.lists = dict.fromkeys(person.lists, "unsubscribed" if self.fake.opt_outs_of == "list" else "active")

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(name)

    async def drop_list(self, list_id: str) -> None:
        self.fake.drop_list(int(list_id))

    def refused_address(self) -> str:
        return "info@post.test"


def unisender(settings: Mapping[str, Any] | None = None, **knobs: Any) -> AbstractAsyncContextManager[UniSenderHarness]:
    """A running fake and an open provider on it; `settings` replace those that are made up."""
    fake = FakeUniSender(**knobs)

    def harness() -> UniSenderHarness:
        made_up = UniSenderSettings(api_key=Secret(KEY), base_url=f"{fake.base_url}{PATH}")
        return UniSenderHarness(fake, UniSenderProvider(replace(made_up, **settings or {})), [KEY])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeUniSender, key=KEY)
