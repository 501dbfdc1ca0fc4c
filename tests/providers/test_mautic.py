"""Mautic: the kit's promises, and what is its own."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from providers.base import (
    BOUNCED,
    AuthFailed,
    Contact,
    Delivered,
    MemberState,
    OptedOut,
    Outcome,
    Reason,
    Refused,
    Rejected,
    Transient,
)
from providers.mautic import MauticProvider
from providers.mautic.records import PLANFIX_ID
from providers.testing import ProviderConformance
from tests.fakes.mautic import BOUNCED as BOUNCE
from tests.fakes.mautic import BY_HAND, UNSUBSCRIBED, MauticHarness, mautic


@pytest.fixture
async def esp() -> AsyncIterator[MauticHarness]:
    async with mautic() as harness:
        yield harness


@pytest.fixture
async def list_id(esp: MauticHarness) -> str:
    return await esp.provider.create_list("Клиенты")


def people(count: int) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(count)]


def moved(number: int) -> Contact:
    return Contact(str(number), f"new{number}@post.test", old_address=f"p{number}@post.test")


def kinds(outcomes: Sequence[Outcome]) -> list[type[Outcome]]:
    return [type(outcome) for outcome in outcomes]


async def with_settings(esp: MauticHarness, **settings: object) -> None:
    """A new provider object with some settings replaced."""
    await esp.provider.close()
    esp.provider = MauticProvider(msgspec.structs.replace(esp.provider.settings, **settings))


class TestMautic(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: MauticHarness) -> MauticHarness:
        return esp


# The last of these is a tenth of the largest number in the docs: every batch of 200 takes the same calls.
@pytest.mark.parametrize(("count", "calls"), [(1, 3), (1000, 30), (10_000, 300)])
async def test_an_import_takes_the_calls_that_the_docs_name(
    esp: MauticHarness, list_id: str, count: int, calls: int
) -> None:
    await esp.provider.upsert(list_id, people(1))  # looks at the fields once
    before = esp.calls()
    await esp.provider.upsert(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(await esp.mailable(list_id)) == count


@pytest.mark.parametrize(("count", "calls"), [(1, 2), (1000, 1010)])
async def test_a_removal_takes_the_calls_that_the_docs_name(
    esp: MauticHarness, list_id: str, count: int, calls: int
) -> None:
    await esp.provider.upsert(list_id, people(count))
    before = esp.calls()
    await esp.provider.remove(list_id, people(count))
    assert esp.calls() - before == calls
    assert await esp.mailable(list_id) == {}


async def test_a_changed_address_takes_six_calls(esp: MauticHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    before = esp.calls()
    await esp.provider.upsert(list_id, [moved(0)])
    assert esp.calls() - before == 6


async def test_no_call_can_lift_a_mark(esp: MauticHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(3))
    await esp.opt_out("p1@post.test")
    await esp.provider.upsert(list_id, [*people(3), moved(0), moved(1)])
    assert [
        call for call in esp.fake.calls if "doNotContact" in str(call.body) or "dnc/email/remove" in call.path
    ] == []
    marking = [call.body for call in esp.fake.calls if "/dnc/" in call.path]
    assert marking == [{"reason": UNSUBSCRIBED}]
    assert not [call for call in esp.fake.calls if call.method == "PUT"]  # it would clear what is not sent


@pytest.mark.parametrize(
    ("marks", "how"),
    [
        ([("email", UNSUBSCRIBED)], "unsubscribed"),
        ([("email", BY_HAND)], "unsubscribed"),
        ([("email", BOUNCE)], BOUNCED),
        ([("sms", UNSUBSCRIBED)], None),
    ],
)
async def test_why_somebody_is_out(
    esp: MauticHarness, list_id: str, marks: list[tuple[str, int]], how: str | None
) -> None:
    person = esp.fake.add("p0@post.test")
    person.marks = marks
    expected = Delivered(str(person.id)) if how is None else OptedOut(how, str(person.id))
    assert await esp.provider.upsert(list_id, people(1)) == [expected]


async def test_a_mark_of_one_copy_holds_for_the_address(esp: MauticHarness, list_id: str) -> None:
    """Mautic looks only at the marks of the copy that it mails, and writes the newest."""
    older, newer = esp.fake.add("p0@post.test"), esp.fake.add("P0@post.test")
    older.marks = [("email", UNSUBSCRIBED)]
    (outcome,) = await esp.provider.upsert(list_id, people(1))
    assert isinstance(outcome, OptedOut)
    assert newer.segments == set()


async def test_all_copies_leave_the_list(esp: MauticHarness, list_id: str) -> None:
    for _ in range(3):
        esp.fake.add("p0@post.test").segments.add(int(list_id))
    await esp.provider.remove(list_id, people(1))
    assert await esp.mailable(list_id) == {}


async def test_who_is_there_in_copies_leaves_the_old_address_with_all_of_them(esp: MauticHarness, list_id: str) -> None:
    for _ in range(2):
        esp.fake.add("p0@post.test").segments.add(int(list_id))
    assert kinds(await esp.provider.upsert(list_id, [moved(0)])) == [Delivered]
    assert set(await esp.mailable(list_id)) == {"new0@post.test"}


async def test_keeping_out_marks_all_copies(esp: MauticHarness, list_id: str) -> None:
    copies = [esp.fake.add("p0@post.test") for _ in range(2)]
    await esp.provider.keep_out(list_id, people(2))
    assert [person.marks for person in copies] == [[("email", UNSUBSCRIBED)]] * 2
    assert [person.mailable for person in esp.fake.copies("p1@post.test")] == [False]


async def test_an_address_with_comma_and_quotes_is_looked_up_alone(esp: MauticHarness, list_id: str) -> None:
    other = esp.fake.add("b@post.test")
    other.segments.add(int(list_id))
    await esp.provider.remove(list_id, [Contact("1", '"a,b@post.test"@post.test'), Contact("2", 'x",b@post.test')])
    assert other.segments == {int(list_id)}


async def test_only_a_name_that_is_there_is_blanked(esp: MauticHarness, list_id: str) -> None:
    anna, ivan = Contact("1", "anna@post.test", "Анна", "Иванова"), Contact("2", "ivan@post.test", "", "")
    await esp.provider.upsert(list_id, [anna, ivan])
    await esp.provider.upsert(list_id, [Contact("1", "anna@post.test", "Анна", ""), ivan])
    rows = [row for call in esp.fake.calls if call.path.endswith("batch/new") for row in call.body]
    assert [row["email"] for row in rows if "overwriteWithBlank" in row] == ["anna@post.test"]
    assert (await esp.mailable(list_id))["anna@post.test"] == ("Анна", "")


async def test_segments_are_for_the_bridge_and_not_for_the_preference_center(esp: MauticHarness, list_id: str) -> None:
    assert not esp.fake.segments[int(list_id)].is_preference_center


async def test_a_segment_that_mautic_fills_by_itself_is_never_adopted(esp: MauticHarness) -> None:
    esp.fake.make_list("Клиенты", filters=[{"field": "city"}])
    assert await esp.provider.find_list("Клиенты") is None


async def test_a_segment_that_a_campaign_needs_is_not_deleted_and_that_is_said(
    esp: MauticHarness, list_id: str
) -> None:
    esp.fake.used_segments = frozenset({int(list_id)})
    with pytest.raises(Refused, match="used by a campaign"):
        await esp.provider.delete_list(list_id)


@pytest.mark.parametrize("bad", [0, 2, 4])
async def test_each_row_has_its_own_outcome_however_php_writes_them(esp: MauticHarness, list_id: str, bad: int) -> None:
    contacts = people(5)
    contacts[bad] = Contact("9", esp.refused_address())
    outcomes = await esp.provider.upsert(list_id, contacts)
    refused = outcomes.pop(bad)
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.INVALID_ADDRESS
    ids = {str(person.id): person.email for person in esp.fake.people.values()}
    told = [ids[str(outcome.provider_contact_id)] for outcome in outcomes if isinstance(outcome, Delivered)]
    assert told == [contact.address for index, contact in enumerate(contacts) if index != bad]


async def test_a_contact_that_the_user_may_not_edit_is_told_as_a_matter_of_rights(
    esp: MauticHarness, list_id: str
) -> None:
    esp.fake.foreign_contacts = frozenset({"p1@post.test"})
    first, second = await esp.provider.upsert(list_id, people(2))
    assert isinstance(first, Delivered)
    assert isinstance(second, Rejected)
    assert second.reason is Reason.RIGHTS


async def test_a_batch_that_leaves_somebody_unsaid_is_sent_again(esp: MauticHarness, list_id: str) -> None:
    esp.fake.unsaid = True
    with pytest.raises(Transient, match="nothing was said"):
        await esp.provider.upsert(list_id, people(2))


async def test_a_contact_that_goes_before_it_is_in_the_segment_is_put_again(esp: MauticHarness, list_id: str) -> None:
    held = esp.fake.hold("POST /api/segments/.*/contacts/add")
    upsert = asyncio.ensure_future(esp.provider.upsert(list_id, people(2)))
    await held.reached.wait()
    esp.fake.forget("p1@post.test")
    held.release(act=True)
    with pytest.raises(Transient, match="not put"):
        await upsert
    assert kinds(await esp.provider.upsert(list_id, people(2))) == [Delivered] * 2


async def test_a_segment_that_the_user_may_not_see_is_a_matter_of_rights(esp: MauticHarness, list_id: str) -> None:
    esp.fake.closed_segments = frozenset({int(list_id)})
    with pytest.raises(AuthFailed):
        await esp.provider.upsert(list_id, people(1))


async def test_a_slow_server_gets_fewer_contacts_in_a_call(esp: MauticHarness, list_id: str) -> None:
    await with_settings(esp, contacts_per_call=30)
    esp.fake.batch_limit = 30
    await esp.provider.upsert(list_id, people(100))
    assert len(await esp.mailable(list_id)) == 100
    sizes = [len(call.body) for call in esp.fake.calls if call.path.endswith("batch/new")]
    assert sorted(sizes) == [10, 30, 30, 30]


async def test_oauth2_gets_a_token_once(esp: MauticHarness) -> None:
    await with_settings(esp, login="oauth2")
    list_id = await esp.provider.create_list("Клиенты")
    assert kinds(await esp.provider.upsert(list_id, people(2))) == [Delivered] * 2
    assert [finding.ok for finding in await esp.provider.check()] == [True, True]
    assert len([call for call in esp.fake.calls if call.path == "/oauth/v2/token"]) == 1


async def test_members_are_told_with_their_marks(esp: MauticHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(2))
    await esp.opt_out("p1@post.test")
    told = [(member.address, member.state, member.id) async for member in esp.provider.members(list_id)]
    assert told == [
        ("p0@post.test", MemberState.SUBSCRIBED, "0"),
        ("p1@post.test", MemberState.OPTED_OUT, "1"),
    ]


async def test_whoever_has_a_mark_is_told_in_no_segment_too(esp: MauticHarness) -> None:
    for number in range(450):
        person = esp.fake.add(f"P{number}@post.test")
        person.marks = [("email", BOUNCE if number == 449 else BY_HAND)] if number % 2 else [("sms", UNSUBSCRIBED)]
    esp.fake.add("").marks = [("email", UNSUBSCRIBED)]  # of a visitor
    esp.fake.add("p0@post.test").marks = [("email", UNSUBSCRIBED)]  # another copy
    told = {member.address: member.how async for member in esp.provider.kept_out()}
    assert told.pop("p449@post.test") == BOUNCED
    assert told == {f"p{number}@post.test": "unsubscribed" for number in (0, *range(1, 449, 2))}


async def test_an_api_that_nobody_finds_is_never_a_list_that_is_gone(esp: MauticHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    esp.fake.api = "unknown"
    with pytest.raises(Transient):
        await esp.provider.has_list(list_id)
    with pytest.raises(Transient):
        await esp.provider.delete_list(list_id)


@pytest.mark.parametrize(
    ("knobs", "said", "advice"),
    [
        ({"api": "unknown"}, "no API at this address", "clear Mautic's cache"),
        ({"api": "off"}, "refuses the key", "switch on the API"),
        ({"unique_email": False}, "another contact", "unique identifier"),
    ],
)
async def test_a_check_says_what_to_do(knobs: dict[str, object], said: str, advice: str) -> None:
    async with mautic(**knobs) as esp:
        wrong = [finding for finding in await esp.provider.check() if not finding.ok]
    assert said in str(wrong[0].text)
    assert advice in str(wrong[0].advice)


async def test_the_planfix_id_is_kept_in_a_field_that_is_made_once(esp: MauticHarness, list_id: str) -> None:
    for _ in range(2):
        await esp.provider.upsert(list_id, people(3))
    made = [call.body for call in esp.fake.calls if call.path == "/api/fields/contact/new"]
    assert made == [{"label": "Planfix ID", "alias": PLANFIX_ID, "type": "text"}]


async def test_an_answer_that_tells_of_no_contacts_does_not_say_that_there_are_none(esp: MauticHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    anna = Contact("1", "anna@post.test")
    await esp.provider.upsert(list_id, [anna])
    await esp.opt_out(anna.address)
    esp.fake.says_nothing = True
    with pytest.raises(Transient):
        await esp.provider.upsert(list_id, [anna])
    with pytest.raises(Transient):
        await esp.provider.remove(list_id, [anna])
