"""Mailman: the kit's promises, and what is its own. The same promises on a real core: tests/live/test_mailman3.py."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from providers.base import (
    Contact,
    Delivered,
    Member,
    MemberState,
    OptedOut,
    Postponed,
    Reason,
    Refused,
    Rejected,
    Transient,
)
from providers.mailman3 import roster
from providers.testing import Fault, ProviderConformance
from tests.fakes.mailman3 import DOMAIN, FakeMailman3, Mailman3Harness, Membership, mailman3

ANNA = Contact("1", "Anna@post.test", "Анна", "Иванова")
MOVED = Contact("1", "new@post.test", "Анна", "Иванова", old_address=ANNA.address)


@pytest.fixture
async def esp() -> AsyncIterator[Mailman3Harness]:
    async with mailman3() as harness:
        yield harness


@pytest.fixture
async def list_id(esp: Mailman3Harness) -> str:
    return await esp.provider.create_list("Клиенты")


class TestMailman3(ProviderConformance):
    # Every contact takes two calls and more; these sizes still pass the edges of batches and of pages.
    MANY = 1200
    MEMBER_PAGE = 300

    @pytest.fixture
    def esp(self, esp: Mailman3Harness) -> Mailman3Harness:
        return esp


def people(count: int) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(count)]


def made_since(fake: FakeMailman3, start: int) -> list[str]:
    """The calls behind the first `start` ones, without ids, with the role that they name."""
    made = []
    for call in fake.calls[start:]:
        path = re.sub(r"[0-9a-f]{32}", "ID", call.path.removeprefix("/3.1"))
        role = call.body.get("role", "") if isinstance(call.body, dict) else ""
        made.append(f"{call.method} {path} {role}".rstrip())
    return made


def roles_of(esp: Mailman3Harness, list_id: str, address: str) -> set[str]:
    return set(esp.fake.at(list_id, address))


# Calls


@pytest.mark.parametrize(("count", "new", "known"), [(1, 4, 1), (1000, 2008, 4)])
async def test_putting_people_on_a_list_takes_the_calls_that_the_docs_name(
    esp: Mailman3Harness, list_id: str, count: int, new: int, known: int
) -> None:
    for calls in (new, known):
        before = esp.calls()
        await esp.provider.upsert(list_id, people(count))
        assert esp.calls() - before == calls
    assert len(await esp.mailable(list_id)) == count


async def test_on_a_long_list_each_contact_is_looked_at_alone(esp: Mailman3Harness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(150))
    before = esp.calls()
    await esp.provider.upsert(list_id, people(12))
    assert esp.calls() - before == 1 + 12


@pytest.mark.parametrize(("count", "calls"), [(1, 3), (1000, 1014)])
async def test_taking_people_off_a_list_takes_the_calls_that_the_docs_name(
    esp: Mailman3Harness, list_id: str, count: int, calls: int
) -> None:
    await esp.provider.upsert(list_id, people(count))
    before = esp.calls()
    await esp.provider.remove(list_id, people(count))
    assert esp.calls() - before == calls
    assert roles_of(esp, list_id, "p0@post.test") == set()


async def test_a_changed_address_takes_the_calls_that_the_docs_name(esp: Mailman3Harness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    before = esp.calls()
    await esp.provider.upsert(list_id, [MOVED])
    assert esp.calls() - before == 9


# Marks


async def test_the_member_comes_before_the_mark_and_leaves_after_it(esp: Mailman3Harness, list_id: str) -> None:
    before = esp.calls()
    await esp.provider.upsert(list_id, [Contact("1", ANNA.address)])
    assert made_since(esp.fake, before) == ["GET /members/find", "POST /members", "POST /members nonmember"]
    before = esp.calls()
    await esp.provider.remove(list_id, [ANNA])
    leaving = ["GET /members/find", "DELETE /members/ID", f"DELETE /lists/{list_id}/roster/member"]
    assert made_since(esp.fake, before) == leaving


async def test_who_left_keeps_the_mark_whatever_planfix_asks(esp: Mailman3Harness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    await esp.opt_out(ANNA.address)
    for _ in range(2):
        assert await esp.provider.remove(list_id, [ANNA]) == [OptedOut("unsubscribed", "anna@post.test")]
        assert await esp.provider.upsert(list_id, [ANNA]) == [OptedOut("unsubscribed", "anna@post.test")]
    assert roles_of(esp, list_id, ANNA.address) == {"nonmember"}


async def test_who_left_and_came_back_alone_is_a_member_again(esp: Mailman3Harness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    await esp.opt_out(ANNA.address)
    esp.fake.join(Membership(list_id, "anna@post.test", "member"))
    assert await esp.provider.upsert(list_id, [ANNA]) == [Delivered("anna@post.test")]


async def test_who_joined_alone_gets_the_mark_too(esp: Mailman3Harness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    esp.fake.leave(esp.fake.at(list_id, ANNA.address)["nonmember"])
    await esp.provider.upsert(list_id, [ANNA])
    await esp.opt_out(ANNA.address)
    assert isinstance((await esp.provider.upsert(list_id, [ANNA]))[0], OptedOut)


async def test_who_only_wrote_to_the_list_is_no_one_who_left(esp: Mailman3Harness, list_id: str) -> None:
    """Mailman makes nonmembers of strangers whose mail it sees."""
    await esp.provider.upsert(await esp.provider.create_list("Другой"), [ANNA])
    esp.fake.join(Membership(list_id, "anna@post.test", "nonmember"))
    assert await esp.provider.upsert(list_id, [ANNA]) == [Delivered("anna@post.test")]
    await esp.opt_out(ANNA.address)
    assert isinstance((await esp.provider.upsert(list_id, [ANNA]))[0], OptedOut)


async def test_a_repeat_after_a_lost_answer_makes_the_mark(esp: Mailman3Harness, list_id: str) -> None:
    esp.fail(Fault.CUT_JSON, after=1)
    with pytest.raises(Transient):
        await esp.provider.upsert(list_id, [ANNA])
    assert roles_of(esp, list_id, ANNA.address) == {"member"}
    assert await esp.provider.upsert(list_id, [ANNA]) == [Delivered("anna@post.test")]
    assert roles_of(esp, list_id, ANNA.address) == {"member", "nonmember"}


async def test_who_leaves_in_the_middle_of_our_removal_has_left(esp: Mailman3Harness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    hold = esp.fake.hold("DELETE .*/roster/member")
    removal = asyncio.ensure_future(esp.provider.remove(list_id, [ANNA]))
    await hold.reached.wait()
    await esp.opt_out(ANNA.address)
    hold.release(act=True)
    await removal
    assert isinstance((await esp.provider.upsert(list_id, [ANNA]))[0], OptedOut)


async def test_who_is_kept_out_is_marked_and_not_banned(esp: Mailman3Harness, list_id: str) -> None:
    """Every ban makes each later subscription slower."""
    await esp.provider.keep_out(list_id, [ANNA, *people(1)])
    assert roles_of(esp, list_id, ANNA.address) == {"nonmember"}
    assert {call.method for call in esp.fake.calls if "/bans" in call.path} == set()


async def test_a_member_who_joined_alone_and_is_kept_out_is_marked_too(esp: Mailman3Harness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    esp.fake.leave(esp.fake.at(list_id, ANNA.address)["nonmember"])
    await esp.provider.keep_out(list_id, [ANNA])
    assert roles_of(esp, list_id, ANNA.address) == {"nonmember"}


async def test_keeping_out_an_address_that_mailman_cannot_have_is_done_already(
    esp: Mailman3Harness, list_id: str
) -> None:
    await esp.provider.keep_out(list_id, [Contact("1", esp.refused_address())])


# Bans and delivery


async def test_who_is_banned_is_told_and_stays_out_under_a_new_address(esp: Mailman3Harness, list_id: str) -> None:
    esp.fake.bans[list_id].add("^anna@.*")
    assert await esp.provider.upsert(list_id, [ANNA]) == [OptedOut("banned")]
    assert await esp.provider.upsert(list_id, [MOVED]) == [OptedOut("banned")]
    assert roles_of(esp, list_id, MOVED.address) == {"nonmember"}


async def test_a_member_who_was_banned_needs_no_mark(esp: Mailman3Harness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    esp.fake.leave(esp.fake.at(list_id, ANNA.address)["nonmember"])
    esp.fake.bans[list_id].add("anna@post.test")
    assert await esp.provider.upsert(list_id, [ANNA]) == [Delivered("anna@post.test")]


async def test_who_is_banned_is_told_by_the_list_or_by_the_account(esp: Mailman3Harness, list_id: str) -> None:
    """But for patterns, which name nobody."""
    esp.fake.bans[list_id] |= {"anna@post.test", "^spam@.*"}
    esp.fake.bans[""] |= {"boris@post.test", "^.*@spam.test"}
    esp.fake.bans["other.lists.example.com"].add("vera@post.test")
    members = [member async for member in esp.provider.members(list_id)]
    assert members == [Member("anna@post.test", MemberState.OPTED_OUT, how="banned")]
    kept_out = [member async for member in esp.provider.kept_out()]
    assert kept_out == [Member("boris@post.test", MemberState.OPTED_OUT, how="banned")]


@pytest.mark.parametrize("status", ["by_user", "by_moderator"])
async def test_who_turned_delivery_off_is_kept_out_under_a_new_address(
    esp: Mailman3Harness, list_id: str, status: str
) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    esp.fake.at(list_id, ANNA.address)["member"].delivery_status = status
    for _ in range(2):
        assert isinstance((await esp.provider.upsert(list_id, [MOVED]))[0], OptedOut)
    assert await esp.mailable(list_id) == {}
    assert roles_of(esp, list_id, ANNA.address) == {"nonmember"}


async def test_whose_mail_bounced_is_reached_under_a_new_address(esp: Mailman3Harness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    esp.fake.at(list_id, ANNA.address)["member"].delivery_status = "by_bounces"
    assert await esp.provider.upsert(list_id, [MOVED]) == [Delivered("new@post.test")]
    assert await esp.mailable(list_id) == esp.listed(MOVED)
    assert roles_of(esp, list_id, ANNA.address) == set()


async def test_members_tell_who_left_and_who_gets_no_mail(esp: Mailman3Harness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(3))
    await esp.opt_out("p0@post.test")
    esp.fake.at(list_id, "p1@post.test")["member"].delivery_status = "by_user"
    esp.fake.join(Membership(list_id, "p1@post.test", "owner"))
    esp.fake.addresses["stray@post.test"] = esp.fake.addresses["p1@post.test"]
    esp.fake.join(Membership(list_id, "stray@post.test", "nonmember"))
    states = {member.address: member.state async for member in esp.provider.members(list_id)}
    assert states == {
        "p0@post.test": MemberState.OPTED_OUT,
        "p1@post.test": MemberState.OPTED_OUT,
        "p2@post.test": MemberState.SUBSCRIBED,
    }


async def test_a_list_that_loses_members_while_it_is_read_is_read_again_later(
    esp: Mailman3Harness, list_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "PAGE", 2)
    await esp.provider.upsert(list_id, people(3))
    hold = esp.fake.hold("GET /3.1/members/find", skip=1)

    async def read() -> list[str]:
        return [member.address async for member in esp.provider.members(list_id)]

    reading = asyncio.ensure_future(read())
    await hold.reached.wait()
    await esp.opt_out("p0@post.test")
    hold.release(act=True)
    with pytest.raises(Transient, match="shorter"):
        await reading


async def test_members_of_a_list_that_is_gone_are_not_none(esp: Mailman3Harness, list_id: str) -> None:
    await esp.drop_list(list_id)
    with pytest.raises(Refused) as refused:
        [member async for member in esp.provider.members(list_id)]
    assert refused.value.reason is Reason.LIST_GONE


# Names and addresses


async def test_a_new_member_whom_mailman_knew_by_another_name_gets_todays(esp: Mailman3Harness, list_id: str) -> None:
    other = await esp.provider.create_list("Другой")
    await esp.provider.upsert(other, [Contact("1", ANNA.address, "Прежнее", "Имя")])
    await esp.provider.upsert(list_id, [ANNA])
    assert await esp.mailable(list_id) == esp.listed(ANNA)


async def test_names_can_be_emptied(esp: Mailman3Harness, list_id: str) -> None:
    await esp.provider.upsert(list_id, [ANNA])
    await esp.provider.upsert(list_id, [Contact("1", ANNA.address, "", "")])
    assert await esp.mailable(list_id) == {"anna@post.test": ("", "")}
    before = esp.calls()
    await esp.provider.upsert(list_id, [Contact("1", ANNA.address, "", "")])
    assert esp.calls() - before == 1


async def test_a_star_in_an_address_stands_for_itself(esp: Mailman3Harness, list_id: str) -> None:
    star, other = Contact("1", "a*b@post.test"), Contact("2", "axb@post.test")
    await esp.provider.upsert(list_id, [other])
    await esp.provider.upsert(list_id, [star])
    await esp.provider.remove(list_id, [star])
    assert await esp.mailable(list_id) == esp.listed(other)


async def test_the_address_of_the_list_itself_is_refused(esp: Mailman3Harness, list_id: str) -> None:
    (outcome,) = await esp.provider.upsert(list_id, [Contact("1", list_id.replace(f".{DOMAIN}", f"@{DOMAIN}"))])
    assert isinstance(outcome, Rejected)


async def test_who_has_asked_to_join_and_not_confirmed_yet_is_tried_again(esp: Mailman3Harness, list_id: str) -> None:
    esp.fake.pending.add("anna@post.test")
    (outcome,) = await esp.provider.upsert(list_id, [ANNA])
    assert isinstance(outcome, Postponed)
    assert roles_of(esp, list_id, ANNA.address) == set()


# Lists


async def test_a_new_list_is_quiet_and_closed_to_its_members(esp: Mailman3Harness, list_id: str) -> None:
    assert esp.fake.lists[list_id].config == {
        "display_name": "Клиенты",
        "subject_prefix": "",
        "advertised": False,
        "default_member_action": "hold",
    }


@pytest.mark.parametrize("name", ["Клиенты", "🎉", "x" * 255, "Ümlaut & Söhne / Привет"])
async def test_a_lists_address_is_short_and_ascii(esp: Mailman3Harness, name: str) -> None:
    local_part = (await esp.provider.create_list(name)).removesuffix(f".{DOMAIN}")
    assert re.fullmatch(r"pf-[a-z0-9-]{1,61}", local_part)


async def test_a_list_that_was_made_and_not_finished_is_finished(esp: Mailman3Harness) -> None:
    esp.fake.unfinished_lists = True
    with pytest.raises(Transient):
        await esp.provider.create_list("Клиенты")
    assert await esp.provider.find_list("Клиенты") is None
    list_id = await esp.provider.create_list("Клиенты")
    assert await esp.lists() == {list_id: "Клиенты"}


async def test_a_list_that_was_renamed_since_is_not_taken_for_a_new_one(esp: Mailman3Harness, list_id: str) -> None:
    esp.fake.lists[list_id].config["display_name"] = "Клиенты 2025"
    with pytest.raises(Refused) as refused:
        await esp.provider.create_list("Клиенты")
    assert refused.value.reason is Reason.NAME_TAKEN


async def test_a_domain_that_mailman_has_not_is_told(esp: Mailman3Harness) -> None:
    esp.fake.domains.clear()
    (wrong,) = [finding for finding in await esp.provider.check() if not finding.ok]
    assert str(wrong.text) == f"Mailman has no mail domain {DOMAIN}"
    assert "Postorius" in str(wrong.advice)
    with pytest.raises(Refused, match="Domain does not exist"):
        await esp.provider.create_list("Клиенты")


@pytest.mark.parametrize(("version", "ok"), [("3.3.2", False), ("3.3.3", True), ("3.3.10", True), ("3.4.0rc1", True)])
async def test_a_core_that_is_too_old_is_told(esp: Mailman3Harness, version: str, ok: bool) -> None:
    esp.fake.version = f"GNU Mailman {version} (Tom Sawyer)"
    assert [finding.ok for finding in await esp.provider.check()] == [ok, True]
