"""A strict DashaMail: bases that own their members, one method a call, as the fact page says.

Where the documentation is silent it is as bad for opt-outs as it may be: an update makes a member active again, and who
is deleted is forgotten.

python -m tests.fakes.dashamail --port 9014 --latency-s 0.2
"""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from msgspec.structs import replace

from providers.base import Secret
from providers.dashamail import DashaMailProvider, DashaMailSettings
from providers.dashamail.provider import HOLDING
from providers.testing.fake import Call, FakeEsp, FakeHarness, run_forever, running

KEY = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
MAX_ROWS = 200  # of a batch; not published
_ADDRESS = re.compile(r"[^\s@,;]{1,64}@[\w-]+(\.[\w-]+)+")
_MERGE = re.compile(r"merge_(\d+)")
_PARAMETERS = {
    "lists.get": {"list_id", "merge_json"},
    "lists.add": {"name"},
    "lists.delete": {"list_id"},
    "lists.add_merge": {"list_id", "type", "title"},
    "lists.get_members": {"list_id", "email", "member_id", "state", "start", "limit"},
    "lists.get_unsubscribed": {"list_id", "start", "limit"},
    "lists.get_complaints": {"list_id", "start", "limit"},
    "lists.add_member": {"list_id", "email", "update", "no_check"},
    "lists.add_member_batch": {"list_id", "batch", "update", "no_check"},
    "lists.delete_member": {"member_id"},
    "lists.unsubscribe_member": {"list_id", "email", "member_id"},
    "lists.move_member": {"member_id", "list_id"},
}
Form = Mapping[str, str]


@dataclass
class Subscriber:
    id: int
    email: str
    state: str = "active"
    merges: dict[str, str] = field(default_factory=dict)


@dataclass
class Base:
    name: str
    fields: list[str] = field(default_factory=list)  # titles; the first is merge_1
    members: dict[str, Subscriber] = field(default_factory=dict)  # by address


class Refusal(Exception):
    """Ends a method with a code."""

    def __init__(self, code: int, text: str = "refused") -> None:
        super().__init__(text)
        self.code, self.text = code, text


@dataclass
class FakeDashaMail(FakeEsp):
    """`fields_are` is how a base tells its fields: "json", "php", "title", or "untold"."""

    parallel_limit: int = 4
    codes_are_text: bool = False
    ids_are_a_list: bool = False
    fields_are: str = "json"
    batch_refuses: bool = False  # a batch with a bad address is refused as a whole
    page_at_most: int = 10**9
    moves_keep_states: bool = True
    always: Any = None  # the answer to every call
    only_counts: bool = False  # batches are counted and change nothing, for large numbers
    refused_domain: str = "refused.test"
    bases: dict[int, Base] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)  # the account's black list

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = count(1)

    # What tests do by hand

    def make_list(self, name: str) -> str:
        number = next(self._numbers)
        self.bases[number] = Base(name)
        return str(number)

    def member(self, list_id: str, address: str) -> Subscriber:
        return self.bases[int(list_id)].members[address]

    def asked(self, method: str) -> list[dict[str, str]]:
        """The bodies of the calls of one method."""
        return [dict(parse_qsl(c.body.decode(), True)) for c in self.calls if c.query.get("method") == method]

    # The server

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        """Everything is answered with 200, whatever it is."""
        return self._told({401: 100, 429: 58}.get(status, 2), "see the code", None, headers)

    def _told(self, code: int, text: str, data: Any, headers: dict[str, str] | None = None) -> web.Response:
        shown = str(code) if self.codes_are_text else code
        msg = {"err_code": shown, "text": text, "type": "error" if code else "message"}
        return web.json_response({"response": {"msg": msg, "data": data}}, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/", self._call)]

    def _note(self, request: web.Request, body: bytes) -> None:
        self.calls.append(Call(request.method, request.path, dict(request.query), body))

    async def _call(self, request: web.Request) -> web.Response:
        if self.always is not None:
            return web.json_response(self.always)
        method = request.query.get("method", "")
        if self.only_counts and method == "lists.add_member_batch":
            rows = (await request.read()).count(b"%3B")
            return self._told(0, "OK", {"member_ids": ",".join(["1"] * rows)})
        form = dict(parse_qsl((await request.read()).decode(), keep_blank_values=True))
        if form.pop("api_key", None) != KEY:
            return self.error(401)
        if unknown := {key for key in form if not _MERGE.fullmatch(key)} - _PARAMETERS.get(method, set()):
            self.violations.append(f"{method} takes no {sorted(unknown)}")
        try:
            return self._told(0, "OK", self._methods()[method](form))
        except KeyError:
            return self._told(
                101 if method not in _PARAMETERS else 3, "unknown method, or a parameter is missing", None
            )
        except Refusal as refusal:
            return self._told(refusal.code, refusal.text, None)

    def _methods(self) -> dict[str, Callable[[Form], Any]]:
        return {
            "lists.get": self._get,
            "lists.add": lambda form: {"list_id": int(self.make_list(form["name"]))},
            "lists.delete": self._delete,
            "lists.add_merge": self._add_merge,
            "lists.get_members": self._get_members,
            "lists.get_unsubscribed": lambda form: self._in_state(form, "unsubscribed"),
            "lists.get_complaints": lambda form: self._in_state(form, "complained"),
            "lists.add_member": self._add_member,
            "lists.add_member_batch": self._add_member_batch,
            "lists.delete_member": self._delete_member,
            "lists.unsubscribe_member": self._unsubscribe_member,
            "lists.move_member": self._move_member,
        }

    def _base(self, form: Form) -> Base:
        if int(form["list_id"]) not in self.bases:
            raise Refusal(5, "no such base")
        return self.bases[int(form["list_id"])]

    @staticmethod
    def _some(rows: list[Any]) -> list[Any]:
        if not rows:
            raise Refusal(4, "no data")
        return rows

    def _page(self, form: Form, rows: list[Any]) -> list[Any]:
        limit = min(int(form.get("limit", 50)), 1000, self.page_at_most)
        start = int(form.get("start", 0))
        return self._some(rows[start : start + limit])

    def _get(self, form: Form) -> Any:
        some = {int(form["list_id"]): self._base(form)} if "list_id" in form else self.bases
        return self._some(
            [{"id": str(number), "name": base.name} | self._fields(base) for number, base in some.items()]
        )

    def _fields(self, base: Base) -> dict[str, Any]:
        if self.fields_are == "untold":
            return {}
        shown: dict[str, Any] = {f"merge_{number}": "" for number in range(1, 5)}
        for number, title in enumerate(base.fields, 1):
            forms = {
                "json": {"type": "text", "title": title, "req": "0"},
                "text": json.dumps({"type": "text", "title": title}),
                "php": f'a:2:{{s:4:"type";s:4:"text";s:5:"title";s:6:"{title}";}}',
                "title": title,
            }
            shown[f"merge_{number}"] = forms[self.fields_are]
        return shown

    def _delete(self, form: Form) -> Any:
        members = self._base(form).members
        del self.bases[int(form["list_id"])]
        return {"deleted_members": len(members) or "empty"}

    def _add_merge(self, form: Form) -> Any:
        if form["type"] != "text":
            raise Refusal(3)
        self._base(form).fields.append(form["title"])
        return {"merge_id": len(self._base(form).fields)}

    @staticmethod
    def _row(one: Subscriber) -> dict[str, Any]:
        return {"id": str(one.id), "email": one.email, "state": one.state, **one.merges}

    def _get_members(self, form: Form) -> Any:
        members = self._base(form).members
        if "email" in form:
            return self._some([self._row(members[a]) for a in [form["email"].lower()] if a in members])
        return [self._row(one) for one in self._page(form, list(members.values()))]

    def _in_state(self, form: Form, state: str) -> Any:
        rows = [one for one in self._base(form).members.values() if one.state == state]
        return [{"email": one.email, "date": "2026-01-01"} for one in self._page(form, rows)]

    def _good(self, address: str) -> bool:
        return bool(_ADDRESS.fullmatch(address)) and not address.lower().endswith("@" + self.refused_domain)

    def write(self, base: Base, address: str, merges: Mapping[str, str]) -> int:
        stored = re.sub(r"@ya\.ru$", "@yandex.ru", address.lower())
        one = base.members.setdefault(stored, Subscriber(next(self._numbers), stored))
        one.state = "active"
        known = {f"merge_{number}" for number in range(1, len(base.fields) + 1)}
        one.merges |= {key: value for key, value in merges.items() if key in known}
        return one.id

    def _add_member(self, form: Form) -> Any:
        base = self._base(form)
        if not self._good(form["email"]):
            raise Refusal(6, f"{form['email']} is no address")
        if form.get("update") != "1":
            raise Refusal(7)
        merges = {key: value for key, value in form.items() if _MERGE.fullmatch(key)}
        return {"member_id": self.write(base, form["email"], merges)}

    def _add_member_batch(self, form: Form) -> Any:
        base = self._base(form)
        rows = [row.split(",") for row in form["batch"].split(";") if row]
        if not 0 < len(rows) <= MAX_ROWS or any(len(row) > 11 for row in rows) or form.get("update") != "1":
            raise Refusal(12)
        if self.batch_refuses and not all(self._good(row[0]) for row in rows):
            raise Refusal(6)
        ids = [
            self.write(base, row[0], {f"merge_{number}": value for number, value in enumerate(row[1:], 1)})
            for row in rows
            if self._good(row[0])
        ]
        return {"member_ids": ids if self.ids_are_a_list else ",".join(map(str, ids)), "added": len(ids)}

    def _member_of(self, form: Form) -> tuple[Base, Subscriber]:
        for base in self.bases.values():
            for one in base.members.values():
                if one.id == int(form["member_id"]):
                    return base, one
        raise Refusal(9, "no such subscriber")

    def _delete_member(self, form: Form) -> Any:
        base, one = self._member_of(form)
        del base.members[one.email]
        return {"deleted": 1}

    def _unsubscribe_member(self, form: Form) -> Any:
        one = self._base(form).members.get(form["email"].lower())
        if one is None:
            raise Refusal(9, "no such subscriber")
        if one.state == "unsubscribed":
            raise Refusal(10, "already unsubscribed")
        one.state = "unsubscribed"
        return {"unsubscribed": 1}

    def _move_member(self, form: Form) -> Any:
        base, one = self._member_of(form)
        target = self._base(form)
        if one.email in target.members:
            raise Refusal(7)
        del base.members[one.email]
        target.members[one.email] = one
        if not self.moves_keep_states:
            one.state = "active"
        return {"member_id": one.id}


class DashaMailHarness(FakeHarness):
    fake: FakeDashaMail

    async def lists(self) -> dict[str, str]:
        return {str(number): base.name for number, base in self.fake.bases.items() if base.name != HOLDING}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        base = self.fake.bases[int(list_id)]
        first, last = (
            f"merge_{base.fields.index(title) + 1}" if title in base.fields else "" for title in ("Имя", "Фамилия")
        )
        return {
            one.email: (one.merges.get(first, ""), one.merges.get(last, ""))
            for one in base.members.values()
            if one.state == "active" and one.email not in self.fake.stopped
        }

    async def opt_out(self, address: str) -> None:
        members = [
            base.members[address.lower()] for base in self.fake.bases.values() if address.lower() in base.members
        ]
        for one in members:
            one.state = "unsubscribed"
        if not members:
            self.fake.stopped.add(address.lower())

    async def make_list(self, name: str) -> str:
        return self.fake.make_list(name)

    async def drop_list(self, list_id: str) -> None:
        del self.fake.bases[int(list_id)]

    def refused_address(self) -> str:
        return f"anna@{self.fake.refused_domain}"


def dashamail(settings: Mapping[str, Any] | None = None, **knobs: Any) -> AbstractAsyncContextManager[DashaMailHarness]:
    """A running fake and an open provider on it; `settings` replace those that are made up."""
    fake = FakeDashaMail(**knobs)

    def harness() -> DashaMailHarness:
        made_up = DashaMailSettings(api_key=Secret(KEY), base_url=fake.base_url)
        return DashaMailHarness(fake, DashaMailProvider(replace(made_up, **settings or {})), [KEY])

    return running(fake, harness)


if __name__ == "__main__":
    run_forever(FakeDashaMail, key=KEY)
