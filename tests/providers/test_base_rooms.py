"""The small rooms under all providers: pace, jobs, pages, parts, names."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import jobs
from providers.concurrency import chunks, chunks_within, each, together
from providers.contact import Contact, Postponed
from providers.errors import Reason, Refused, Transient
from providers.jobs import Overdue, Polling, UnderWayInMemory, follow
from providers.messages import Message
from providers.names import joined, name_fields, slug, without, without_emoji
from providers.pace import Pace, Rate
from providers.paging import by_cursor, by_offset, by_page, until_empty
from providers.rest import NeededFields

REAL_TURN = Pace.turn  # before the fixture of all tests makes it quick


# Pace


async def goes_at_once(pace: Pace, bucket: str) -> bool:
    turn = asyncio.ensure_future(REAL_TURN(pace, bucket))
    for _ in range(5):
        await asyncio.sleep(0)
    done = turn.done()
    turn.cancel()
    return done


async def test_no_more_calls_go_in_a_time_than_the_rate_of_their_bucket() -> None:
    pace = Pace({"": [Rate(4, 3600)], "imports": [Rate(1, 3600)]})
    assert [await goes_at_once(pace, "imports") for _ in range(2)] == [True, False]
    # The refused one had its turn in the other bucket before, or waits there: at most two of the four are used.
    assert [await goes_at_once(pace, "") for _ in range(2)] == [True, True]
    assert not all([await goes_at_once(pace, "") for _ in range(3)])


async def test_all_rates_of_a_bucket_hold() -> None:
    pace = Pace({"": [Rate(5, 3600), Rate(2, 3600)]})
    assert [await goes_at_once(pace, "") for _ in range(3)] == [True, True, False]


async def test_a_rate_holds_in_every_window_and_not_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, now_s = asyncio.get_running_loop(), 1000.0

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(loop, "time", lambda: now_s)
    monkeypatch.setattr("providers.pace.asyncio.sleep", sleep)
    pace = Pace({"": [Rate(4), Rate(10, 60)]})
    went_s: list[float] = []
    for _ in range(30):
        await REAL_TURN(pace)
        went_s.append(now_s)
        now_s += 0.1
    assert all(later - first > 0.999 for first, later in zip(went_s, went_s[4:], strict=False))
    assert all(later - first > 59.999 for first, later in zip(went_s, went_s[10:], strict=False))
    assert went_s[9] - went_s[0] < 3


# Jobs


async def test_a_job_is_looked_at_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def pause(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(jobs, "pause", pause)
    seen = iter(range(10))

    async def look() -> int:
        return next(seen)

    assert await follow(look, lambda number: number == 5, Polling(1, 4, 100)) == 5
    assert waits == [1, 2, 4, 4, 4, 4]
    with pytest.raises(Overdue, match="not done after 10 s"):
        await follow(look, lambda number: False, Polling(1, 4, 10))
    assert sum(waits[6:]) <= 10


async def still_runs(_: str) -> bool:
    return False


async def test_what_a_job_may_still_do_is_waited_for() -> None:
    under_way = UnderWayInMemory()
    with pytest.raises(Transient):
        async with under_way.job("1", ["Anna@post.test"], 3600):
            raise Transient("no answer")
    waits = Postponed(60, Reason.CONTACT_REFUSED, "an earlier upsert may still be under way at the service")
    assert await under_way.waiting("1", [["x@post.test", "anna@POST.test"], ["x@post.test"], []], still_runs) == [
        waits,
        None,
        None,
    ]
    assert await under_way.waiting("2", [["anna@post.test"]], still_runs) == [None]


async def test_a_job_that_ended_or_was_refused_is_not() -> None:
    under_way = UnderWayInMemory()
    async with under_way.job("1", ["anna@post.test"], 3600):
        assert await under_way.waiting("1", [["anna@post.test"]], still_runs) != [None]
    assert await under_way.waiting("1", [["anna@post.test"]], still_runs) == [None]
    with pytest.raises(Refused):
        async with under_way.job("1", ["anna@post.test"], 3600):
            raise Refused
    assert await under_way.waiting("1", [["anna@post.test"]], still_runs) == [None]


async def test_a_job_that_nobody_follows_any_more_is_asked_for() -> None:
    under_way, asked, over = UnderWayInMemory(), [], False

    async def has_ended(job_id: str) -> bool:
        asked.append(job_id)
        return over

    async def give_up() -> None:
        async with under_way.job("1", ["anna@post.test"], 3600) as known_as:
            await known_as("17")
            assert await under_way.waiting("1", [["anna@post.test"]], has_ended) != [None]
            assert asked == [], "who follows a job is told of its end"
            raise Transient("no answer")

    with pytest.raises(Transient):
        await give_up()
    assert await under_way.waiting("1", [["boris@post.test"]], has_ended) == [None]
    assert asked == [], "nobody waits for it"
    assert await under_way.waiting("1", [["anna@post.test"]], has_ended) != [None]
    over = True
    assert await under_way.waiting("1", [["anna@post.test"]], has_ended) == [None]
    assert await under_way.waiting("1", [["anna@post.test"]], has_ended) == [None]
    assert asked == ["17", "17"]


async def test_a_job_of_which_the_service_knows_nothing_any_more_is_waited_for() -> None:
    """A refused look must not refuse the change that waits."""
    under_way = UnderWayInMemory()

    async def give_up() -> None:
        async with under_way.job("1", ["anna@post.test"], 3600) as known_as:
            await known_as("17")
            raise Transient("no answer")

    async def forgotten(_: str) -> bool:
        raise Refused

    with pytest.raises(Transient):
        await give_up()
    assert await under_way.waiting("1", [["anna@post.test"]], forgotten) != [None]


async def test_the_repeat_of_a_job_whose_answer_was_lost_is_the_end_of_both() -> None:
    under_way = UnderWayInMemory()
    with pytest.raises(Transient):
        async with under_way.job("1", ["anna@post.test", "boris@post.test"], 3600):
            raise Transient("no answer")
    async with under_way.job("1", ["Anna@post.test"], 3600):
        pass
    told = await under_way.waiting("1", [["anna@post.test"], ["boris@post.test"]], still_runs)
    assert [type(one) for one in told] == [type(None), Postponed]


async def test_a_job_that_cannot_be_looked_at_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_pause(wait_s: float) -> None:
        pass

    async def look() -> bool:
        raise Refused

    monkeypatch.setattr("providers.jobs.pause", no_pause)
    under_way = UnderWayInMemory()
    with pytest.raises(Refused):
        async with under_way.job("1", ["anna@post.test"], 3600):
            await follow(look, bool, Polling(1, 4, 100))
    assert await under_way.waiting("1", [["anna@post.test"]], still_runs) != [None]


# Pages


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
async def test_every_item_of_every_page_comes_once(count: int) -> None:
    items = list(range(count))

    async def at(offset: int) -> Sequence[int]:
        return items[offset : offset + 2]

    async def numbered(page: int) -> Sequence[int]:
        return items[(page - 1) * 2 : page * 2]

    async def after(cursor: int | None) -> tuple[Sequence[int], int | None]:
        start = cursor or 0
        return items[start : start + 2], start + 2 if start + 2 < count else None

    assert [i async for i in by_offset(at, 2)] == items
    assert [i async for i in by_page(numbered, 2)] == items
    assert [i async for i in by_cursor(after)] == items


async def test_a_cursor_that_does_not_move_is_no_end() -> None:
    async def after(cursor: str | None) -> tuple[Sequence[int], str | None]:
        return [1], "same"

    with pytest.raises(Transient, match="same page"):
        _ = [i async for i in by_cursor(after)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_a_listing_is_read_until_it_is_empty_however_its_pages_are_cut(size: int) -> None:
    async def at(offset: int) -> Sequence[int]:
        return list(range(7))[offset : offset + size]

    assert [i async for i in until_empty(at)] == list(range(7))


async def test_a_page_that_comes_twice_is_no_end() -> None:
    async def at(_: int) -> Sequence[int]:
        return [1, 2]

    with pytest.raises(Transient, match="same page"):
        _ = [i async for i in until_empty(at)]


# At one time


async def test_no_more_is_under_way_than_allowed_and_results_keep_their_order() -> None:
    under_way = 0
    most = 0

    async def work(item: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return -item

    assert await each(range(20), work, 3) == [-item for item in range(20)]
    assert most == 3
    assert await each([], work, 3) == []


async def test_the_first_failure_stops_the_rest() -> None:
    started: list[int] = []
    never = asyncio.Event()

    async def work(item: int) -> None:
        started.append(item)
        if item == 1:
            raise Transient("down")
        await never.wait()

    with pytest.raises(Transient):
        await each(range(10), work, 2)
    assert started == [0, 1]
    with pytest.raises(Transient):
        await together(work(item) for item in (5, 1))


def test_parts_have_the_size_and_all_items() -> None:
    assert chunks(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert chunks([], 2) == []


@given(st.lists(st.integers(0, 12)), st.integers(1, 4))
def test_parts_are_as_large_as_size_and_weight_allow(items: list[int], size: int) -> None:
    parts = chunks_within(items, size, lambda item: item, 10)
    assert [item for part in parts for item in part] == items
    assert all(1 <= len(part) <= size and (sum(part) <= 10 or len(part) == 1) for part in parts)
    assert all(len(p) == size or sum(p) + following[0] > 10 for p, following in pairwise(parts))


# Names


@pytest.mark.parametrize(
    ("first", "last", "both"),
    [("Анна", "Иванова", "Анна Иванова"), ("Анна", "", "Анна"), (None, "ООО", "ООО"), (None, None, ""), ("", "", "")],
)
def test_both_names_in_one_field(first: str | None, last: str | None, both: str) -> None:
    assert joined(first, last) == both
    assert joined(first, last, 4) == both[:4].strip()


def test_only_names_that_are_told_are_sent() -> None:
    contact = Contact("1", "anna@post.test", first_name="", last_name=None)
    assert name_fields(contact, "FNAME", "LNAME") == {"FNAME": ""}


def test_what_a_service_forbids_becomes_a_space() -> None:
    assert without("a/b [c]\\@d", "/\\[]@") == "a b c d"
    assert without_emoji("🎉 Клиенты № 1 ✅ 👩‍🚀!") == "Клиенты № 1 !"


@pytest.mark.parametrize(
    ("name", "made"),
    [("Клиенты: «Москва»", "klienty-moskva"), ("O'Hara & Sons", "o-hara-sons"), ("🎉", "tada"), ("«»", "")],
)
def test_a_slug_is_plain_ascii(name: str, made: str) -> None:
    assert slug(name, 50) == made


@given(st.text(), st.integers(1, 40))
def test_a_slug_of_anything_may_stand_in_an_address(name: str, max_chars: int) -> None:
    made = slug(name, max_chars)
    assert len(made) <= max_chars
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert made == made.strip("-")


# Fields


async def test_only_the_fields_that_are_missing_are_made_and_only_once() -> None:
    there = {"first"}
    made: list[str] = []

    async def make(name: str) -> None:
        made.append(name)
        there.add(name)

    async def names() -> set[str]:
        return there

    fields = NeededFields(["first", "last", "id", "last"], names, make)
    assert await fields.missing() == ["last", "id"]
    for _ in range(2):
        await fields.get()
    assert made == ["last", "id"]
    assert str((await fields.finding(Message("fields"))).text) == "fields: there"
    assert await fields.is_there()
    there.discard("id")
    assert str((await fields.finding(Message("fields"))).text) == "fields: missing id; made with the first contact"
    assert not await fields.is_there()
    await fields.get()
    assert made == ["last", "id", "id"]
