"""A strict fake of Mailchimp's Marketing API: audiences, members with their states, fields, tags.

As its own process: `python -m tests.fakes.mailchimp --port 9001 --latency-s 0.2`.
"""

import base64
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from aiohttp import web

from providers.base import Secret
from providers.mailchimp import MailchimpProvider, MailchimpSettings
from providers.testing import EspHarness, Fault
from providers.testing.fake import FakeEsp, Handler, run_forever
from tests.specs import SPECS, Spec

API_KEY = "0123456789abcdef0123456789abcdef-us21"
PREFIX = "/3.0"
PARALLEL_LIMIT = 10
BATCH_MAX = 500
STATUSES = ("subscribed", "unsubscribed", "cleaned", "pending", "transactional")
FIELDS_MAX = 30

MEMBER_BODY = {
    "email_address", "email_type", "status", "merge_fields", "interests", "language", "vip", "location",
    "ip_signup", "timestamp_signup", "ip_opt", "timestamp_opt",
}  # fmt: skip
AUDIENCE_NEEDS = ("name", "contact", "permission_reminder", "campaign_defaults", "email_type_option")
CONTACT_NEEDS = ("company", "address1", "city", "country")
CAMPAIGN_NEEDS = ("from_name", "from_email", "subject", "language")


def member_id(address: str) -> str:
    return hashlib.md5(address.lower().encode(), usedforsecurity=False).hexdigest()


class MailchimpSpec(Spec):
    """The official description, which by a slip of its conversion wants the values of merge fields to be objects."""

    def faults(self, method: str, path: str, query: Any, headers: Any, body: bytes) -> list[str]:
        try:
            parsed = json.loads(body) if body else None
        except ValueError:
            parsed = None
        if isinstance(parsed, dict):
            for member in [parsed, *parsed.get("members", [])]:
                if "merge_fields" in member:
                    member["merge_fields"] = {tag: {} for tag in member["merge_fields"]}
            body = json.dumps(parsed).encode()
        return super().faults(method, path, query, headers, body)


@cache
def mailchimp_spec() -> Spec | None:
    """None where `../shared` is not there (a user's machine)."""
    file = SPECS / "mailchimp" / "marketing-3.0.90-paths-we-use.openapi.json"
    return MailchimpSpec([file]) if file.is_file() else None


class Problem(Exception):
    """An answer of the kind `application/problem+json`."""

    def __init__(self, status: int, title: str, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(title)
        self.status = status
        self.body = {
            "type": "https://mailchimp.com/developer/marketing/docs/errors/",
            "title": title,
            "status": status,
            "detail": detail,
            "instance": "995c5cb0-3280-4a6e-808b-3b096d0bb219",
        } | ({"errors": errors} if errors else {})

    def response(self, headers: dict[str, str] | None = None) -> web.Response:
        return web.json_response(
            self.body, status=self.status, headers=headers, content_type="application/problem+json"
        )


def not_found() -> Problem:
    return Problem(404, "Resource Not Found", "The requested resource could not be found.")


@dataclass
class FakeMember:
    address: str
    status: str
    merge: dict[str, str] = field(default_factory=dict)
    tags: set[int] = field(default_factory=set)
    by_person: bool = False  # the person, not the account, made this status

    @property
    def in_compliance_state(self) -> bool:
        return self.status == "cleaned" or (self.status == "unsubscribed" and self.by_person)


@dataclass
class FakeAudience:
    id: str
    name: str
    members: dict[str, FakeMember] = field(default_factory=dict)
    tags: dict[int, str] = field(default_factory=dict)
    fields: list[str] = field(default_factory=lambda: ["FNAME", "LNAME", "ADDRESS", "PHONE"])
    forgotten: set[str] = field(default_factory=set)  # member ids that were deleted for good


@dataclass
class FakeMailchimp(FakeEsp):
    """One account. The knobs below are what no source settles, or what a plan decides.

    `batch_tags`: whether `tags` of a batch's members do anything. `opted_out_may_join`: whether a tag takes
    unsubscribed members. `audiences_max`: the plan's limit. `before` is called with method, path and body ahead of
    every call: what it changes happened in that moment, what it raises is the answer.
    """

    parallel_limit: int = PARALLEL_LIMIT
    spec_prefix: str = PREFIX
    batch_tags: bool = True
    opted_out_may_join: bool = True
    audiences_max: int = 100
    audiences: dict[str, FakeAudience] = field(default_factory=dict)
    too_often: set[str] = field(default_factory=set)  # addresses that signed up to many lists lately
    untaggable: set[str] = field(default_factory=set)  # addresses that no tag takes
    before: Callable[[str, str, Any], None] = field(default=lambda method, path, body: None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ids = itertools.count(1001)

    # --- what people do at Mailchimp itself

    def add_audience(self, name: str) -> FakeAudience:
        audience = FakeAudience(f"a{next(self._ids):09d}", name)
        self.audiences[audience.id] = audience
        return audience

    def add_tag(self, audience: FakeAudience, name: str) -> int:
        tag = next(self._ids)
        audience.tags[tag] = name
        return tag

    def drop_tag(self, audience: FakeAudience, tag: int) -> None:
        del audience.tags[tag]
        for member in audience.members.values():
            member.tags.discard(tag)

    def opt_out(self, audience: FakeAudience, address: str, status: str = "unsubscribed") -> None:
        member = audience.members.setdefault(member_id(address), FakeMember(address, status))
        member.status, member.by_person = status, True

    # --- the service

    async def start(self, port: int = 0) -> str:
        self.base_url = await super().start(port) + PREFIX
        return self.base_url

    def routes(self) -> list[web.RouteDef]:
        table: dict[tuple[str, str], Callable[[web.Request, Any], Any]] = {
            ("GET", "/ping"): lambda request, body: {"health_status": "Everything's Chimpy!"},
            ("GET", "/lists"): self._get_audiences,
            ("POST", "/lists"): self._post_audience,
            ("GET", "/lists/{list}"): self._get_audience,
            ("POST", "/lists/{list}"): self._post_members,
            ("DELETE", "/lists/{list}"): self._delete_audience,
            ("GET", "/lists/{list}/members"): self._get_members,
            ("GET", "/lists/{list}/members/{member}"): self._get_member,
            ("PUT", "/lists/{list}/members/{member}"): self._put_member,
            ("PATCH", "/lists/{list}/members/{member}"): self._patch_member,
            ("GET", "/lists/{list}/merge-fields"): self._get_fields,
            ("POST", "/lists/{list}/merge-fields"): self._post_field,
            ("GET", "/lists/{list}/segments"): self._get_tags,
            ("POST", "/lists/{list}/segments"): self._post_tag,
            ("GET", "/lists/{list}/segments/{tag}"): self._get_tag,
            ("POST", "/lists/{list}/segments/{tag}"): self._retag,
            ("DELETE", "/lists/{list}/segments/{tag}"): self._delete_tag,
            ("GET", "/lists/{list}/segments/{tag}/members"): self._get_tag_members,
            ("DELETE", "/lists/{list}/segments/{tag}/members/{member}"): self._delete_tag_member,
        }
        return [web.route(method, PREFIX + path, self._handler(act)) for (method, path), act in table.items()]

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        titles = {401: "API Key Invalid", 429: "Too Many Requests"}
        title = titles.get(status, "Internal Server Error")
        return Problem(status, title, f"{title}, or you've attempted to access the wrong datacenter.").response(headers)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._under_way > PARALLEL_LIMIT:
            return web.Response(status=429)
        return await super()._answer(request, handler)

    def _handler(self, act: Callable[[web.Request, Any], Any]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                self._authorize(request)
                text = await request.read()
                body = json.loads(text.decode()) if text else None
                self.before(request.method, request.path.removeprefix(PREFIX), body)
                told = act(request, body)
            except Problem as problem:
                return problem.response()
            return web.Response(status=204) if told is None else web.json_response(_only(told, request))

        return handle

    def _authorize(self, request: web.Request) -> None:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        key = base64.b64decode(credentials).decode().partition(":")[2] if scheme == "Basic" else ""
        if key != API_KEY:
            raise Problem(
                401, "API Key Invalid", "Your API key may be invalid, or you've attempted the wrong datacenter."
            )

    # --- audiences

    def _audience(self, request: web.Request) -> FakeAudience:
        try:
            return self.audiences[request.match_info["list"]]
        except KeyError:
            raise not_found() from None

    def _get_audiences(self, request: web.Request, body: Any) -> Any:
        told = [{"id": a.id, "name": a.name} for a in self.audiences.values()]
        return {"lists": _page(told, request), "total_items": len(told)}

    def _get_audience(self, request: web.Request, body: Any) -> Any:
        audience = self._audience(request)
        return {"id": audience.id, "name": audience.name}

    def _post_audience(self, request: web.Request, body: Any) -> Any:
        parts = ((body, AUDIENCE_NEEDS), (body.get("contact", {}), CONTACT_NEEDS))
        for given, needed in (*parts, (body.get("campaign_defaults", {}), CAMPAIGN_NEEDS)):
            missing = [name for name in needed if given.get(name) in (None, "")]
            if missing:
                errors = [{"field": name, "message": "Required fields were not provided"} for name in missing]
                raise Problem(400, "Invalid Resource", "The resource submitted could not be validated.", errors)
        if len(self.audiences) >= self.audiences_max:
            raise Problem(403, "User action not permitted", "User does not have access to the requested operation")
        audience = self.add_audience(body["name"])
        return {"id": audience.id, "name": audience.name}

    def _delete_audience(self, request: web.Request, body: Any) -> None:
        del self.audiences[self._audience(request).id]

    # --- fields

    def _get_fields(self, request: web.Request, body: Any) -> Any:
        fields = [{"merge_id": n, "tag": tag} for n, tag in enumerate(self._audience(request).fields, 1)]
        return {"merge_fields": _page(fields, request), "total_items": len(fields)}

    def _post_field(self, request: web.Request, body: Any) -> Any:
        audience = self._audience(request)
        _only_known(body, {"tag", "name", "type", "public"})
        if len(audience.fields) >= FIELDS_MAX:
            raise Problem(400, "Bad Request", "You can have at most 30 merge fields.")
        if body["tag"] in audience.fields:
            raise Problem(
                400, "Bad Request", f'A Merge Field with the tag "{body["tag"]}" already exists for this list.'
            )
        audience.fields.append(body["tag"])
        return {"merge_id": len(audience.fields), "tag": body["tag"]}

    # --- members

    def _get_members(self, request: web.Request, body: Any) -> Any:
        audience = self._audience(request)
        wanted = request.query.get("status")
        told = [_shown(audience, m) for m in audience.members.values() if m.status == wanted or wanted is None]
        return {"members": _page(told, request), "total_items": len(told)}

    def _get_member(self, request: web.Request, body: Any) -> Any:
        audience = self._audience(request)
        member = audience.members.get(request.match_info["member"])
        if member is None:
            raise not_found()
        return _shown(audience, member)

    def _put_member(self, request: web.Request, body: Any) -> Any:
        audience = self._audience(request)
        _only_known(body, MEMBER_BODY | {"status_if_new"})
        key = request.match_info["member"]
        member = audience.members.get(key)
        if member is None:
            if key != member_id(body["email_address"]):
                raise Problem(400, "Member Exists", f"{body['email_address']} is already a list member.")
            member = self._new_member(audience, body, body.get("status") or body["status_if_new"])
        else:
            self._change(audience, member, body)
        return _shown(audience, member)

    def _patch_member(self, request: web.Request, body: Any) -> Any:
        audience = self._audience(request)
        _only_known(body, MEMBER_BODY)
        member = audience.members.get(request.match_info["member"])
        if member is None:
            raise not_found()
        self._change(audience, member, body)
        return _shown(audience, member)

    def _new_member(self, audience: FakeAudience, body: dict[str, Any], status: str) -> FakeMember:
        address = body["email_address"]
        self._check_address(audience, address)
        _check_merge(audience, body)
        if status not in STATUSES:
            raise Problem(400, "Invalid Resource", "The resource submitted could not be validated.")
        if address.lower() in self.too_often:
            detail = f"{address} has signed up to a lot of lists very recently; we're not allowing more signups for now"
            raise Problem(400, "Invalid Resource", detail)
        member = FakeMember(address, status, dict(body.get("merge_fields", {})))
        audience.members[member_id(address)] = member
        return member

    def _check_address(self, audience: FakeAudience, address: str) -> None:
        if address.lower().endswith("@example.com"):
            detail = f"{address} looks fake or invalid, please enter a real email address."
            raise Problem(400, "Invalid Resource", detail)
        if member_id(address) in audience.forgotten:
            detail = f"{address} was permanently deleted and cannot be re-imported. The contact must re-subscribe."
            raise Problem(400, "Forgotten Email Not Subscribed", detail)

    def _change(self, audience: FakeAudience, member: FakeMember, body: dict[str, Any]) -> None:
        """All or nothing, as one call is."""
        _check_merge(audience, body)
        old, new = member_id(member.address), member_id(body.get("email_address", member.address))
        if new != old:
            self._check_address(audience, body["email_address"])
            if new in audience.members:
                known = audience.members[new]
                detail = f"{known.address} is already in this list with a status of {known.status.title()}."
                raise Problem(400, "Bad Request", detail)
        if body.get("status") == "subscribed" and member.in_compliance_state:
            detail = (
                f"{member.address} is in a compliance state due to unsubscribe, bounce, or compliance review "
                "and cannot be subscribed."
            )
            raise Problem(400, "Member In Compliance State", detail)
        if new != old:
            audience.members[new] = audience.members.pop(old)
            member.address = body["email_address"]
        if "status" in body and body["status"] != member.status:
            member.status, member.by_person = body["status"], False
        member.merge |= body.get("merge_fields", {})

    def _post_members(self, request: web.Request, body: Any) -> Any:
        audience = self._audience(request)
        _only_known(body, {"members", "update_existing", "sync_tags"})
        members = body["members"]
        if len(members) > BATCH_MAX:
            raise Problem(400, "Invalid Resource", "Maximum allowed member items exceeded")
        if body.get("sync_tags"):
            self.violations.append("sync_tags takes people off all other tags")
        told: dict[str, Any] = {"new_members": [], "updated_members": [], "errors": []}
        for one in members:
            _only_known(one, MEMBER_BODY | {"tags"})
            try:
                self._post_one(audience, one, bool(body.get("update_existing")), told)
            except Problem as problem:
                faults = problem.body.get("errors") or [{"field": "", "message": ""}]
                told["errors"].append(
                    {
                        "email_address": one["email_address"],
                        "error": problem.body["detail"],
                        "error_code": "ERROR_GENERIC",
                        "field": faults[0]["field"],
                        "field_message": faults[0]["message"],
                    }
                )
        return told | {
            "total_created": len(told["new_members"]),
            "total_updated": len(told["updated_members"]),
            "error_count": len(told["errors"]),
        }

    def _post_one(self, audience: FakeAudience, one: dict[str, Any], update: bool, told: dict[str, Any]) -> None:
        known = audience.members.get(member_id(one["email_address"]))
        if known is None:
            member = self._new_member(audience, one, one["status"])
            if self.batch_tags:
                for name in one.get("tags", []):
                    tag = next((t for t, n in audience.tags.items() if n == name), None)
                    member.tags.add(self.add_tag(audience, name) if tag is None else tag)
            told["new_members"].append(_shown(audience, member))
        elif update:
            self._change(audience, known, {name: value for name, value in one.items() if name != "email_address"})
            told["updated_members"].append(_shown(audience, known))
        else:
            told["errors"].append(
                {
                    "email_address": one["email_address"],
                    "error": f"{one['email_address']} is already a list member, do you want to update? please provide "
                    "update_existing:true in the request body",
                    "error_code": "ERROR_CONTACT_EXISTS",
                    "field": "",
                    "field_message": "",
                }
            )

    # --- tags

    def _tag(self, request: web.Request) -> tuple[FakeAudience, int]:
        audience, text = self._audience(request), request.match_info["tag"]
        if not text.isdigit() or int(text) not in audience.tags:
            raise not_found()
        return audience, int(text)

    def _get_tags(self, request: web.Request, body: Any) -> Any:
        told = [{"id": t, "name": n, "type": "static"} for t, n in self._audience(request).tags.items()]
        return {"segments": _page(told, request), "total_items": len(told)}

    def _post_tag(self, request: web.Request, body: Any) -> Any:
        audience = self._audience(request)
        _only_known(body, {"name", "static_segment"})
        if not isinstance(body.get("static_segment"), list):
            detail = 'Must provide either an "options" field or a "static_segment" field'
            raise Problem(400, "Bad Request", detail)
        return {"id": self.add_tag(audience, body["name"]), "name": body["name"], "type": "static"}

    def _get_tag(self, request: web.Request, body: Any) -> Any:
        audience, tag = self._tag(request)
        return {"id": tag, "name": audience.tags[tag], "type": "static"}

    def _delete_tag(self, request: web.Request, body: Any) -> None:
        self.drop_tag(*self._tag(request))

    def _retag(self, request: web.Request, body: Any) -> Any:
        audience, tag = self._tag(request)
        _only_known(body, {"members_to_add", "members_to_remove"})
        if any(len(addresses) > BATCH_MAX for addresses in body.values()):
            raise Problem(400, "Bad Request", "Maximum allowed member items exceeded")
        told: dict[str, Any] = {"members_added": [], "members_removed": [], "errors": []}
        for address in body.get("members_to_add", []):
            member = audience.members.get(member_id(address))
            if member is None or tag in member.tags:
                continue
            is_out = member.status in ("unsubscribed", "cleaned")
            if (is_out and not self.opted_out_may_join) or address in self.untaggable:
                told["errors"].append({"email_addresses": [address], "error": f"{address} cannot join"})
                continue
            member.tags.add(tag)
            told["members_added"].append(_shown(audience, member))
        for address in body.get("members_to_remove", []):
            member = audience.members.get(member_id(address))
            if member is not None and tag in member.tags:
                member.tags.discard(tag)
                told["members_removed"].append(_shown(audience, member))
        return told | {
            "total_added": len(told["members_added"]),
            "total_removed": len(told["members_removed"]),
            "error_count": len(told["errors"]),
        }

    def _get_tag_members(self, request: web.Request, body: Any) -> Any:
        audience, tag = self._tag(request)
        hidden = {
            status
            for status in ("unsubscribed", "cleaned", "transactional")
            if request.query.get(f"include_{status}") != "true"
        }
        told = []
        for member in audience.members.values():
            if tag in member.tags and member.status not in hidden | {"archived"}:
                shown = _shown(audience, member)
                del shown["tags"]
                told.append(shown)
        return {"members": _page(told, request), "total_items": len(told)}

    def _delete_tag_member(self, request: web.Request, body: Any) -> None:
        audience, tag = self._tag(request)
        member = audience.members.get(request.match_info["member"])
        if member is None or tag not in member.tags:
            raise not_found()
        member.tags.discard(tag)


def _shown(audience: FakeAudience, member: FakeMember) -> dict[str, Any]:
    return {
        "id": member_id(member.address),
        "email_address": member.address,
        "status": member.status,
        "merge_fields": dict.fromkeys(audience.fields, "") | member.merge,
        "tags_count": len(member.tags),
        "tags": [{"id": tag, "name": audience.tags[tag]} for tag in sorted(member.tags)],
    }


def _only_known(body: dict[str, Any], known: set[str]) -> None:
    for name in body.keys() - known:
        errors = [{"field": name, "message": "Schema describes no such field"}]
        raise Problem(400, "Invalid Resource", "The resource submitted could not be validated.", errors)


def _check_merge(audience: FakeAudience, body: dict[str, Any]) -> None:
    for tag, value in body.get("merge_fields", {}).items():
        if tag not in audience.fields or not isinstance(value, str):
            errors = [{"field": tag, "message": "Your merge fields were invalid."}]
            raise Problem(400, "Invalid Resource", "Your merge fields were invalid.", errors)


def _page(items: list[Any], request: web.Request) -> list[Any]:
    count, offset = int(request.query.get("count", 10)), int(request.query.get("offset", 0))
    if count > 1000:
        raise Problem(400, "Invalid Resource", "count is at most 1000")
    return items[offset : offset + count]


def _only(told: dict[str, Any], request: web.Request) -> dict[str, Any]:
    """The parts that the query's `fields` names; all where it names none."""
    if "fields" not in request.query:
        return told
    wanted: dict[str, set[str]] = {}
    for path in request.query["fields"].split(","):
        name, _, part = path.partition(".")
        wanted.setdefault(name, set()).update([part] if part else [])
    return {
        name: [{k: v for k, v in item.items() if k in wanted[name]} for item in value] if wanted[name] else value
        for name, value in told.items()
        if name in wanted
    }


class MailchimpHarness(EspHarness):
    """A fake account and a provider on it. In tag mode the account has one audience, `audience`."""

    def __init__(self, fake: FakeMailchimp, settings: MailchimpSettings) -> None:
        self.fake = fake
        self.provider = MailchimpProvider(settings)
        self.in_tags = settings.list_as == "tag"

    @property
    def audience(self) -> FakeAudience:
        return next(iter(self.fake.audiences.values()))

    async def lists(self) -> dict[str, str]:
        if self.in_tags:
            return {str(tag): name for tag, name in self.audience.tags.items()}
        return {audience.id: audience.name for audience in self.fake.audiences.values()}

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        audience = self.audience if self.in_tags else self.fake.audiences[list_id]
        return {
            member.address.lower(): (member.merge.get("FNAME", ""), member.merge.get("LNAME", ""))
            for member in audience.members.values()
            if member.status == "subscribed" and (not self.in_tags or int(list_id) in member.tags)
        }

    async def opt_out(self, address: str) -> None:
        audiences = list(self.fake.audiences.values())
        knowing = [audience for audience in audiences if member_id(address) in audience.members]
        for audience in knowing or audiences:
            self.fake.opt_out(audience, address)

    async def make_list(self, name: str) -> str:
        if self.in_tags:
            return str(self.fake.add_tag(self.audience, name))
        return self.fake.add_audience(name).id

    async def drop_list(self, list_id: str) -> None:
        if self.in_tags:
            self.fake.drop_tag(self.audience, int(list_id))
        else:
            del self.fake.audiences[list_id]

    def fail(self, fault: Fault, times: int = 1, after: int = 0) -> None:
        self.fake.fail(fault, times, after)

    def heal(self) -> None:
        self.fake.heal()

    def refused_address(self) -> str:
        return "anna@example.com"

    def calls(self) -> int:
        return len(self.fake.calls)

    def violations(self) -> list[str]:
        return self.fake.violations

    def secrets(self) -> list[str]:
        return [API_KEY]


def settings_for(fake: FakeMailchimp, list_as: Literal["tag", "audience"] = "tag", **more: Any) -> MailchimpSettings:
    """Settings that reach a running fake, complete for either mode."""
    return MailchimpSettings(
        api_key=Secret(API_KEY),
        base_url=fake.base_url,
        list_as=list_as,
        company="Ромашка",
        address="Main street 1",
        city="Berlin",
        country="DE",
        permission_reminder="You are a client of ours.",
        from_name="Anna",
        from_email="anna@post.test",
        subject="News",
        language="en",
        **more,
    )


@asynccontextmanager
async def mailchimp(
    list_as: Literal["tag", "audience"] = "tag", *, spec: bool = True, **knobs: Any
) -> AsyncIterator[MailchimpHarness]:
    """A running fake with an open provider. Without `spec` requests are not held against the official description."""
    make = account if list_as == "tag" else FakeMailchimp
    fake = make(spec=mailchimp_spec() if spec else None, **knobs)
    await fake.start()
    harness = MailchimpHarness(fake, settings_for(fake, list_as))
    try:
        yield harness
    finally:
        await harness.provider.close()
        await fake.stop()


def account(**knobs: Any) -> FakeMailchimp:
    """An account with one audience, as on the free plan."""
    fake = FakeMailchimp(**knobs)
    fake.add_audience("Everybody")
    return fake


if __name__ == "__main__":
    run_forever(account, key=API_KEY)
