"""GetResponse: the kit's promises, and what is its own."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from providers.answers import Answer
from providers.base import (
    BOUNCED,
    AuthFailed,
    Contact,
    ContactRefused,
    Delivered,
    MemberState,
    OptedOut,
    Postponed,
    Reason,
    Refused,
    Rejected,
    Transient,
    Unsupported,
)
from providers.getresponse.api import READ_FOR_MORE_THAN
from providers.getresponse.records import ERRORS, who_left
from providers.testing import EspHarness, ProviderConformance
from tests.fakes.getresponse import Campaign, GetResponseHarness, getresponse


@pytest.fixture
async def esp() -> AsyncIterator[GetResponseHarness]:
    async with getresponse() as harness:
        yield harness


@pytest.fixture
async def list_id(esp: GetResponseHarness) -> str:
    return await esp.provider.create_list("Клиенты")


def people(count: int) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(count)]


ANNA, IVAN = people(2)
NEW = Contact("0", "new@post.test", old_address=ANNA.address)


def sent(esp: GetResponseHarness, path: str) -> list[Any]:
    return [call.body for call in esp.fake.calls if call.method == "POST" and call.path == f"/v3{path}"]


class TestGetResponse(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: GetResponseHarness) -> GetResponseHarness:
        return esp

    async def test_a_job_whose_bridge_is_gone_holds_nobody_up_once_it_has_ended(
        self, esp: EspHarness, list_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It does: GetResponse has no jobs to ask for, only contacts that are on their way one by one."""
        with pytest.raises(AssertionError, match="Postponed"):
            await super().test_a_job_whose_bridge_is_gone_holds_nobody_up_once_it_has_ended(esp, list_id, monkeypatch)


# Calls


@pytest.mark.parametrize(("count", "calls"), [(1, 5), (1000, 22), (10_000, 181)])
async def test_new_contacts_take_the_calls_that_the_docs_name(
    esp: GetResponseHarness, list_id: str, count: int, calls: int
) -> None:
    other = await esp.provider.create_list("Другие")
    await esp.provider.upsert(other, [ANNA])  # looks for the field once
    before = esp.calls()
    await esp.provider.upsert(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(await esp.mailable(list_id)) == count


@pytest.mark.parametrize(("name", "calls"), [(None, 1), ("Анна", 1), ("Новое", 2)])
async def test_a_contact_that_is_on_the_list_takes_a_look_and_a_change(
    esp: GetResponseHarness, list_id: str, name: str | None, calls: int
) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    before = esp.calls()
    await esp.provider.upsert(list_id, [Contact("0", ANNA.address, name)])
    assert esp.calls() - before == calls
    assert await esp.mailable(list_id) == {ANNA.address: (name or "Анна", "")}


async def test_a_thousand_that_are_there_take_one_call(esp: GetResponseHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1000))
    before = esp.calls()
    await esp.provider.upsert(list_id, people(1000))
    assert esp.calls() - before == 1


@pytest.mark.parametrize(("count", "calls"), [(1, 2), (1000, 1001)])
async def test_removals_take_the_calls_that_the_docs_name(
    esp: GetResponseHarness, list_id: str, count: int, calls: int
) -> None:
    await esp.provider.upsert(list_id, people(count))
    before = esp.calls()
    await esp.provider.remove(list_id, people(count))
    assert esp.calls() - before == calls
    assert await esp.mailable(list_id) == {}


async def test_a_changed_address_takes_ten_calls(esp: GetResponseHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    before = esp.calls()
    await esp.provider.upsert(list_id, [NEW])
    assert esp.calls() - before == 10
    assert set(await esp.mailable(list_id)) == {NEW.address}


# Who left


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("api", Delivered(ANNA.address)),
        ("unsubscribe", OptedOut("unsubscribed", ANNA.address)),
        ("user", OptedOut("unsubscribed", ANNA.address)),
        ("automation", OptedOut("unsubscribed", ANNA.address)),
        ("support", OptedOut("unsubscribed", ANNA.address)),
        (None, OptedOut("unsubscribed", ANNA.address)),
        ("something new", OptedOut("unsubscribed", ANNA.address)),
        ("complaint", OptedOut("complained", ANNA.address)),
        ("blacklisted", OptedOut("blocked", ANNA.address)),
        ("bounce", OptedOut(BOUNCED, ANNA.address)),
        ("cleaner", OptedOut(BOUNCED, ANNA.address)),
    ],
)
async def test_only_a_removal_through_the_api_is_no_opt_out(
    esp: GetResponseHarness, list_id: str, reason: str | None, outcome: object
) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    esp.fake.remove(list_id, ANNA.address, reason)
    assert await esp.provider.upsert(list_id, [ANNA]) == [outcome]


@pytest.mark.parametrize(
    ("reasons", "how"),
    [
        (["api", "unsubscribe"], "unsubscribed"),
        (["unsubscribe", "api"], "unsubscribed"),
        (["bounce", "complaint"], "complained"),
        (["unsubscribe", "bounce"], "unsubscribed"),
        (["api", "bounce"], BOUNCED),
        (["bounce", "api"], BOUNCED),
        (["api", "api"], None),
    ],
)
def test_of_several_departures_the_persons_own_counts_first(reasons: list[str], how: str | None) -> None:
    assert who_left({"email": "Anna@post.test", "reason": reason} for reason in reasons) == {"anna@post.test": how}


async def test_who_came_back_by_themselves_is_on_the_list(esp: GetResponseHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    await esp.opt_out(ANNA.address)
    esp.fake._arrive(esp.fake.campaigns[list_id], esp.fake._take(list_id, {"email": ANNA.address}))
    assert await esp.provider.upsert(list_id, [ANNA]) == [Delivered(ANNA.address)]


async def test_who_is_gone_without_any_record_of_it_has_left(esp: GetResponseHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    await esp.opt_out(ANNA.address)
    esp.fake.campaigns[list_id].removed.clear()  # as long as a search does not show it yet, or not any more
    known = Contact("0", ANNA.address, "Анна", provider_contact_id=ANNA.address)
    (outcome,) = await esp.provider.upsert(list_id, [known])
    assert isinstance(outcome, OptedOut)
    await esp.provider.upsert(list_id, [IVAN])
    await esp.provider.remove(list_id, [IVAN])
    known = Contact("1", IVAN.address, "Иван", provider_contact_id=IVAN.address)
    assert await esp.provider.upsert(list_id, [known]) == [Delivered(IVAN.address)]


async def test_members_show_who_left_by_themselves_and_not_whom_we_removed(
    esp: GetResponseHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, people(3))
    await esp.opt_out(ANNA.address)
    await esp.provider.remove(list_id, [IVAN])
    states = {member.address: member.state async for member in esp.provider.members(list_id)}
    assert states == {ANNA.address: MemberState.OPTED_OUT, "p2@post.test": MemberState.SUBSCRIBED}


# Blocklists


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("mask", [ANNA.address, "@post.test"])
@pytest.mark.parametrize("of_list", [True, False])
async def test_who_is_blocked_is_told_as_opted_out(
    esp: GetResponseHarness, list_id: str, others: int, mask: str, of_list: bool
) -> None:
    (esp.fake.campaigns[list_id] if of_list else esp.fake).masks.append(mask.upper())
    outcomes = await esp.provider.upsert(list_id, [ANNA, Contact("9", "ivan@mail.test")][: 1 + others])
    assert isinstance(outcomes[0], OptedOut)
    assert {type(outcome) for outcome in outcomes[1:]} <= {Delivered}


@pytest.mark.parametrize("of_list", [True, False])
async def test_a_block_holds_for_a_new_address(esp: GetResponseHarness, list_id: str, of_list: bool) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    (esp.fake.campaigns[list_id] if of_list else esp.fake).masks.append(ANNA.address)
    assert await esp.provider.upsert(list_id, [NEW]) == [OptedOut("blocked")]
    assert NEW.address in esp.fake.masks
    assert await esp.mailable(list_id) == {}


@pytest.mark.parametrize("of_list", [True, False])
async def test_who_is_blocked_goes_along_to_another_service(
    esp: GetResponseHarness, list_id: str, of_list: bool
) -> None:
    await esp.provider.upsert(list_id, people(3))
    (esp.fake.campaigns[list_id] if of_list else esp.fake).masks += [ANNA.address.upper(), "@mail.test"]
    states = {member.address: member.state async for member in esp.provider.members(list_id)}
    assert [address for address, state in states.items() if state is MemberState.OPTED_OUT] == [ANNA.address]
    told = [(member.address, member.how) async for member in esp.provider.kept_out()]
    assert told == ([] if of_list else [(ANNA.address, "blocked")])


async def test_a_blocked_domain_says_nothing_of_the_person(esp: GetResponseHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    esp.fake.masks.append("@post.test")
    moved = Contact("0", "anna@mail.test", old_address=ANNA.address)
    assert await esp.provider.upsert(list_id, [moved]) == [Delivered("anna@mail.test")]


async def test_the_blocklist_is_added_to_and_what_is_on_it_stays(esp: GetResponseHarness, list_id: str) -> None:
    esp.fake.masks.append("somebody@post.test")
    await esp.provider.upsert(list_id, [ANNA])
    await esp.provider.keep_out(list_id, [ANNA, IVAN])
    assert esp.fake.masks == ["somebody@post.test", ANNA.address, IVAN.address]
    assert esp.fake.campaigns[list_id].contacts == {}


# Lists


async def test_a_deleted_list_is_emptied_and_renamed(esp: GetResponseHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(READ_FOR_MORE_THAN + 1))
    await esp.provider.delete_list(list_id)
    retired = esp.fake.campaigns[list_id]
    assert retired.name == f"deleted-{list_id} Клиенты"
    assert retired.contacts == {}
    assert {one["reason"] for one in retired.removed} == {"api"}
    before = esp.calls()
    await esp.provider.delete_list(list_id)
    assert esp.calls() - before == 1
    assert await esp.provider.find_list(retired.name) is None
    with pytest.raises(Refused) as gone:
        await esp.provider.upsert(list_id, [ANNA])
    assert gone.value.reason is Reason.LIST_GONE


@pytest.mark.parametrize("others", [0, READ_FOR_MORE_THAN])
async def test_who_left_a_deleted_list_is_not_on_the_next_one(
    esp: GetResponseHarness, list_id: str, others: int
) -> None:
    contacts = people(2 + others)
    await esp.provider.upsert(list_id, contacts)
    await esp.opt_out(ANNA.address)
    await esp.provider.delete_list(list_id)
    again = await esp.provider.create_list("Клиенты")
    out, *told = await esp.provider.upsert(again, contacts)
    assert out == OptedOut("unsubscribed", ANNA.address)
    assert {type(outcome) for outcome in told} == {Delivered}


async def test_a_list_may_be_left_alone_instead() -> None:
    async with getresponse({"delete_list": "refuse"}) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        await esp.provider.upsert(list_id, [ANNA])
        with pytest.raises(Unsupported, match="by hand"):
            await esp.provider.delete_list(list_id)
        assert set(await esp.mailable(list_id)) == {ANNA.address}
        await esp.provider.delete_list("unknown")


@pytest.mark.parametrize(
    ("name", "number", "made"),
    [
        ("Клиенты 🎉 / Москва", 1, "Клиенты Москва"),
        ("☎ a[b]@c\\d", 1, "a b c d"),
        ("🎉", 1, "Planfix"),
        ("я", 1, "я__"),
        ("я", 2, "я (2)"),
        ("я" * 70, 12, "я" * 59 + " (12)"),
    ],
)
def test_a_list_has_a_name_that_getresponse_takes(esp: GetResponseHarness, name: str, number: int, made: str) -> None:
    assert esp.provider.list_name(name, number) == made


# Additions


async def test_additions_are_waited_for(esp: GetResponseHarness, list_id: str) -> None:
    esp.fake.queue_looks = 7
    assert {type(outcome) for outcome in await esp.provider.upsert(list_id, people(3))} == {Delivered}
    assert len(await esp.mailable(list_id)) == 3


@pytest.mark.parametrize("others", [0, 1, READ_FOR_MORE_THAN])
async def test_who_never_comes_to_the_list_is_told(esp: GetResponseHarness, list_id: str, others: int) -> None:
    lost = Contact("lost", f"anna@{esp.fake.lost_domain}")
    first, *told = await esp.provider.upsert(list_id, [lost, *people(others)])
    assert isinstance(first, Rejected)
    assert {type(outcome) for outcome in told} <= {Delivered}


async def test_who_must_confirm_first_is_delivered(esp: GetResponseHarness, list_id: str) -> None:
    esp.fake.campaigns[list_id].double_opt_in = True
    assert await esp.provider.upsert(list_id, people(2)) == [Delivered(one.address) for one in people(2)]
    assert await esp.mailable(list_id) == {}


async def test_what_an_earlier_call_added_is_waited_for_and_named(esp: GetResponseHarness, list_id: str) -> None:
    esp.fake.queue_looks = 3
    esp.fake._start(list_id, [esp.fake._take(list_id, {"email": ANNA.address, "name": "Другое"})])
    assert await esp.provider.upsert(list_id, [ANNA]) == [Delivered(ANNA.address)]
    assert await esp.mailable(list_id) == esp.listed(ANNA)


async def test_who_is_still_on_the_way_is_not_removed_too_early(
    esp: GetResponseHarness, list_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: object) -> object:
        raise Transient("down")

    monkeypatch.setattr("providers.getresponse.provider.follow", down)
    with pytest.raises(Transient):
        await esp.provider.upsert(list_id, [ANNA])
    (outcome,) = await esp.provider.remove(list_id, [ANNA])
    assert isinstance(outcome, Postponed)


async def test_several_with_a_bad_one_among_them_are_halved(esp: GetResponseHarness, list_id: str) -> None:
    with pytest.raises(ContactRefused):
        await esp.provider.upsert(list_id, [ANNA, Contact("bad", esp.refused_address())])


async def test_a_contact_is_added_with_its_planfix_id_and_without_an_empty_name(
    esp: GetResponseHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, [Contact("17", ANNA.address, "", "")])
    (field_id,) = esp.fake.fields
    row = {"email": ANNA.address, "customFieldValues": [{"customFieldId": field_id, "value": ["17"]}]}
    assert sent(esp, "/contacts") == [row | {"campaign": {"campaignId": list_id}}]


@pytest.mark.parametrize("count", [1, 2])
async def test_a_field_that_somebody_deleted_is_made_again_and_nobody_is_refused_for_it(
    esp: GetResponseHarness, list_id: str, count: int
) -> None:
    await esp.provider.upsert(list_id, [Contact("9", "ivan@post.test")])
    esp.fake.fields.clear()
    with pytest.raises(Transient, match="is gone"):
        await esp.provider.upsert(list_id, people(count))
    assert {type(outcome) for outcome in await esp.provider.upsert(list_id, people(count))} == {Delivered}


@pytest.mark.parametrize("count", [1, 2])
async def test_the_limit_of_the_plan_is_told(esp: GetResponseHarness, list_id: str, count: int) -> None:
    esp.fake.contacts_allowed = 0
    with pytest.raises(Refused) as full:
        await esp.provider.upsert(list_id, people(count))
    assert full.value.reason is Reason.PLAN_LIMIT
    assert not isinstance(full.value, ContactRefused)


async def test_an_address_that_may_not_be_changed_is_a_new_contact(esp: GetResponseHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    esp.fake.may_change_addresses = False
    assert await esp.provider.upsert(list_id, [NEW]) == [Delivered(NEW.address)]
    assert set(await esp.mailable(list_id)) == {NEW.address}


# Errors and check


def answer(status: int, body: dict[str, object], **headers: str) -> Answer:
    return Answer(status, headers, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, 1014, AuthFailed),
        (403, 1014, AuthFailed),
        (403, 1016, AuthFailed),
        (403, 1023, AuthFailed),
        (404, 1024, AuthFailed),
        (400, 1000, Refused),
        (404, 1013, Refused),
        (429, 1015, Transient),
        (503, 1019, Transient),
        (500, 1, Transient),
    ],
)
def test_codes_say_more_than_statuses(status: int, code: int, kind: type[Exception]) -> None:
    assert isinstance(ERRORS.error_of(answer(status, {"code": code}), "add"), kind)


def test_the_wait_of_a_rate_limit_stands_in_a_header_or_in_the_body() -> None:
    in_body = answer(429, {"code": 1015, "context": {"timeToReset": "100 seconds"}})
    in_header = Answer(429, {"x-ratelimit-reset": "432 seconds"}, in_body.body)
    waits = [ERRORS.error_of(one, "add") for one in (in_body, in_header)]
    assert [error.retry_after_s for error in waits if isinstance(error, Transient)] == [100, 432]


async def test_a_max_account_is_told_its_domain() -> None:
    async with getresponse({"domain": "example.com"}, domain="example.com") as esp:
        assert all(finding.ok for finding in await esp.provider.check())
    async with getresponse(domain="example.com") as esp:
        (finding,) = await esp.provider.check()
        assert not finding.ok
        assert "domain" in str(finding.advice)


async def test_a_check_counts_lists_and_tells_what_will_be_made(esp: GetResponseHarness, list_id: str) -> None:
    assert [str(finding.text) for finding in await esp.provider.check()] == [
        "the API key works",
        "the account has 1 of at most 1000 lists",
        "custom field planfix_id: missing; made with the first contact",
    ]
    await esp.provider.upsert(list_id, [ANNA])
    esp.fake.campaigns |= {f"c{number}": Campaign(f"list {number}") for number in range(999)}
    findings = await esp.provider.check()
    assert str(findings[2].text) == "custom field planfix_id: there"
    assert (findings[1].ok, findings[1].advice is not None) == (False, True)
