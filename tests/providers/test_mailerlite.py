"""MailerLite: the kit's promises, and what is its own."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from providers.base import (
    BOUNCED,
    Contact,
    ContactRefused,
    Delivered,
    MemberState,
    OptedOut,
    Outcome,
    Postponed,
    Reason,
    Refused,
    Rejected,
    Transient,
)
from providers.mailerlite import PLANFIX_ID, SINGLE_UP_TO
from providers.testing import ProviderConformance
from tests.fakes.mailerlite import MailerliteHarness, mailerlite

MANY = SINGLE_UP_TO + 1  # go as an import


@pytest.fixture
async def esp() -> AsyncIterator[MailerliteHarness]:
    async with mailerlite() as harness:
        yield harness


@pytest.fixture
async def list_id(esp: MailerliteHarness) -> str:
    return await esp.provider.create_list("Клиенты")


def people(count: int) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(count)]


def bodies(esp: MailerliteHarness, end_of_path: str) -> list[Any]:
    return [call.body for call in esp.fake.calls if call.path.endswith(end_of_path) and call.body]


async def refusal_of(esp: MailerliteHarness, list_id: str, contacts: list[Contact]) -> Reason:
    with pytest.raises(Refused) as refused:
        await esp.provider.upsert(list_id, contacts)
    return refused.value.reason


class TestMailerlite(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: MailerliteHarness) -> MailerliteHarness:
        return esp


@pytest.mark.parametrize(("count", "calls"), [(1, 1), (1000, 2), (10_000, 20)])
async def test_an_import_takes_the_calls_that_the_docs_name(
    esp: MailerliteHarness, list_id: str, count: int, calls: int
) -> None:
    await esp.provider.upsert(list_id, people(1))  # looks at the fields once
    before = esp.calls()
    await esp.provider.upsert(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(await esp.mailable(list_id)) == count


@pytest.mark.parametrize(("count", "calls"), [(1, 2), (1000, 40)])
async def test_a_removal_takes_the_calls_that_the_docs_name(
    esp: MailerliteHarness, list_id: str, count: int, calls: int
) -> None:
    await esp.provider.upsert(list_id, people(count))
    before = esp.calls()
    await esp.provider.remove(list_id, people(count))
    assert esp.calls() - before == calls
    assert await esp.mailable(list_id) == {}


async def test_a_changed_address_takes_four_calls(esp: MailerliteHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    before = esp.calls()
    await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    assert esp.calls() - before == 4


async def test_no_call_can_reactivate_anybody_or_take_a_group_away(esp: MailerliteHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(MANY))
    await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    await esp.opt_out("p1@post.test")
    await esp.provider.upsert(list_id, [Contact("1", "also.new@post.test", old_address="p1@post.test")])
    told = [call.body for call in esp.fake.calls if {"status", "resubscribe"} & set(call.body or {})]
    assert told == [{"email": "also.new@post.test", "status": "unsubscribed"}]
    assert [call.body for call in esp.fake.calls if call.method == "PUT"] == [{"email": "new@post.test"}]


async def test_a_report_names_five_of_each_and_all_are_told_right(esp: MailerliteHarness, list_id: str) -> None:
    contacts = people(60)
    for contact in contacts[:10]:
        await esp.opt_out(contact.address)
    esp.fake.person(contacts[10].address).status = "bounced"
    esp.fake.person(contacts[11].address).status = "junk"
    bad = [Contact(str(n), f"bad{n}@{esp.fake.refused_domain}") for n in range(8)]
    outcomes = await esp.provider.upsert(list_id, [*contacts, *bad])
    assert {type(outcome) for outcome in outcomes[:10]} == {OptedOut}
    expected: list[Outcome] = [
        OptedOut(BOUNCED, contacts[10].address),
        OptedOut("complained", contacts[11].address),
        *(Delivered(contact.address) for contact in contacts[12:]),
    ]
    assert outcomes[10:60] == expected
    assert {getattr(outcome, "reason", None) for outcome in outcomes[60:]} == {Reason.INVALID_ADDRESS}
    assert await esp.mailable(list_id) == esp.listed(*contacts[12:])


async def test_who_is_out_without_being_counted_is_told(esp: MailerliteHarness, list_id: str) -> None:
    contacts = people(MANY)
    esp.fake.person(contacts[3].address).status = "bounced"
    outcomes = await esp.provider.upsert(list_id, contacts)
    assert outcomes.pop(3) == OptedOut(BOUNCED, contacts[3].address)
    assert {type(outcome) for outcome in outcomes} == {Delivered}


async def test_who_is_left_out_for_another_reason_is_no_success(esp: MailerliteHarness, list_id: str) -> None:
    esp.fake.role_names = frozenset({"info"})
    *others, role = await esp.provider.upsert(list_id, [*people(MANY), Contact("9", "info@post.test")])
    assert {type(outcome) for outcome in others} == {Delivered}
    assert isinstance(role, Rejected)


async def test_an_import_that_the_plan_stops_says_so(esp: MailerliteHarness, list_id: str) -> None:
    esp.fake.stopped = True
    outcomes = await esp.provider.upsert(list_id, people(MANY))
    assert {getattr(outcome, "reason", None) for outcome in outcomes} == {Reason.PLAN_LIMIT}


async def test_rows_that_refuse_an_import_are_told_and_the_others_go_again(
    esp: MailerliteHarness, list_id: str
) -> None:
    esp.fake.strict_imports = True
    bad = [Contact(str(n), f"bad{n}@{esp.fake.refused_domain}") for n in range(2)]
    outcomes = await esp.provider.upsert(list_id, [bad[0], *people(MANY), bad[1]])
    assert [type(outcome) for outcome in outcomes] == [Rejected, *[Delivered] * MANY, Rejected]
    assert [len(body["subscribers"]) for body in bodies(esp, "import-subscribers")] == [MANY + 2, MANY]
    assert {type(o) for o in await esp.provider.upsert(list_id, bad * MANY)} == {Rejected}


async def test_an_import_that_is_refused_without_a_name_is_halved_by_the_bridge(
    esp: MailerliteHarness, list_id: str
) -> None:
    esp.fake.strict_imports = esp.fake.unnamed_rows = True
    with pytest.raises(ContactRefused):
        await esp.provider.upsert(list_id, [*people(MANY), Contact("9", esp.refused_address())])


async def test_an_import_to_a_list_that_is_gone_says_so(esp: MailerliteHarness, list_id: str) -> None:
    await esp.drop_list(list_id)
    assert await refusal_of(esp, list_id, people(MANY)) is Reason.LIST_GONE


async def test_who_may_still_be_put_on_the_list_is_not_removed_too_early(esp: MailerliteHarness, list_id: str) -> None:
    esp.fake.job_looks = 1_000_000
    with pytest.raises(Transient, match="not done"):
        await esp.provider.upsert(list_id, people(MANY))
    (outcome,) = await esp.provider.remove(list_id, people(1))
    assert isinstance(outcome, Postponed)
    (outcome,) = await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    assert isinstance(outcome, Postponed)


@pytest.mark.parametrize(
    ("status", "how"), [("unsubscribed", "unsubscribed"), ("bounced", BOUNCED), ("junk", "complained")]
)
async def test_why_somebody_is_out_is_read_from_the_status_and_not_from_a_text(
    esp: MailerliteHarness, list_id: str, status: str, how: str
) -> None:
    (contact,) = people(1)
    esp.fake.person(contact.address).status = status
    assert await esp.provider.upsert(list_id, [contact]) == [OptedOut(how, contact.address)]


async def test_a_field_that_is_refused_is_no_matter_of_the_address(esp: MailerliteHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    del esp.fake.fields["last_name"]
    (outcome,) = await esp.provider.upsert(list_id, [Contact("1", "p1@post.test", last_name="Иванова")])
    assert isinstance(outcome, Rejected)
    assert outcome.reason is Reason.CONTACT_REFUSED


async def test_an_address_that_mailerlite_does_not_change_is_a_new_contact(
    esp: MailerliteHarness, list_id: str
) -> None:
    esp.fake.fixed_addresses = True
    await esp.provider.upsert(list_id, people(1))
    new = Contact("0", "new@post.test", "Анна", old_address="p0@post.test")
    assert await esp.provider.upsert(list_id, [new]) == [Delivered("new@post.test")]
    assert await esp.mailable(list_id) == esp.listed(new)


async def test_where_names_must_differ_a_taken_one_is_told(esp: MailerliteHarness, list_id: str) -> None:
    esp.fake.unique_names = True
    with pytest.raises(Refused) as refused:
        await esp.provider.create_list("Клиенты")
    assert refused.value.reason is Reason.NAME_TAKEN


async def test_keeping_out_passes_over_who_can_get_no_mail_anyway(esp: MailerliteHarness, list_id: str) -> None:
    member, out = people(2)
    await esp.provider.upsert(list_id, [member])
    await esp.opt_out(out.address)
    await esp.provider.keep_out(list_id, [out, Contact("9", esp.refused_address()), member])
    assert await esp.mailable(list_id) == {}


@pytest.mark.parametrize("operation", ["upsert", "remove"])
async def test_an_error_inside_a_batch_is_an_error(esp: MailerliteHarness, list_id: str, operation: str) -> None:
    await esp.provider.upsert(list_id, people(2))
    esp.fake.part_status = 429
    moved = [Contact("0", "new@post.test", old_address="p0@post.test")]
    with pytest.raises(Transient):
        await (
            esp.provider.upsert(list_id, moved) if operation == "upsert" else esp.provider.remove(list_id, people(2))
        )
    assert len(await esp.mailable(list_id)) == 2


async def test_members_of_every_status_are_told(esp: MailerliteHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(5))
    for number, status in enumerate(("active", "unconfirmed", "unsubscribed", "bounced", "junk")):
        esp.fake.person(f"p{number}@post.test").status = status
    told = [member async for member in esp.provider.members(list_id)]
    assert [member.state for member in told] == [
        MemberState.SUBSCRIBED, MemberState.PENDING, *[MemberState.OPTED_OUT] * 3
    ]  # fmt: skip
    assert [member.id for member in told] == ["0", "1", "2", "3", "4"]
    assert [member.how for member in told[2:]] == ["unsubscribed", BOUNCED, "complained"]


async def test_all_whom_the_account_keeps_out_are_told_in_no_group_too(esp: MailerliteHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(250))
    await esp.provider.remove(list_id, people(250))
    statuses = ["unsubscribed"] * 220 + ["bounced", "junk", "unconfirmed"]
    for number, status in enumerate(statuses):
        esp.fake.person(f"p{number}@post.test").status = status
    told = {member.address: member.how async for member in esp.provider.kept_out()}
    assert [told.pop(f"p{number}@post.test") for number in (220, 221)] == [BOUNCED, "complained"]
    assert told == {f"p{number}@post.test": "unsubscribed" for number in range(220)}


async def test_the_planfix_id_is_kept_in_a_field_that_is_made_once(esp: MailerliteHarness, list_id: str) -> None:
    for _ in range(2):
        await esp.provider.upsert(list_id, people(3))
    assert bodies(esp, "/fields") == [{"name": PLANFIX_ID, "type": "text"}]


async def test_a_check_tells_that_no_more_groups_or_fields_fit(esp: MailerliteHarness) -> None:
    esp.fake.groups = {str(number): "x" for number in range(1000)}
    esp.fake.fields = {f"field_{number}": "x" for number in range(100)}
    findings = await esp.provider.check()
    assert [finding.ok for finding in findings] == [False, False]
    assert [bool(finding.advice) for finding in findings] == [True, True]
