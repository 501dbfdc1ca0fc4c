"""The plan of a move: it shows, and refuses with a reason, and changes nothing."""

import pytest

from providers.base import AuthFailed, Finding, Limits, Message, ProviderError, Refused, Unsupported
from tests.bench import person
from tests.clock import DrivenClock
from tests.memory_provider import MemoryProvider
from tests.moves.bench import MovingBench, running

pytestmark = pytest.mark.usefixtures("types")


async def test_the_plan_says_what_would_be_done_and_changes_nothing(store_url: str, clock: DrivenClock) -> None:
    async with running(MovingBench(store_url, clock, new="one_name")) as bench:
        await bench.bring(await bench.create("A"), *(person(n) for n in range(25)))
        plan = await bench.plan()
        assert plan.refusals == []
        [step] = plan.steps
        assert (step.mapped.public_id, step.target, step.copy, step.contacts) == ("memory:1", "there", None, 25)
        assert plan.new_lists == 1
        assert plan.calls == {"memory": 3, "there": 5}
        assert plan.notes == [
            "there keeps first and last name in one field",
            "there takes no opt-outs from elsewhere: the bridge alone remembers them",
        ]
        assert bench.there.names == {}
        assert {name for name, _ in bench.there.calls} == {"check"}
        assert {name for name, _ in bench.esp.calls} == {"find_list", "create_list", "upsert", "check", "members"}


async def test_a_name_that_does_not_fit_is_told(bench: MovingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.create("Клиенты")
    monkeypatch.setattr(MemoryProvider, "limits", Limits(batch_size=10, parallel_calls=3, list_name_chars=4))
    assert "“Клиенты” becomes “Клие” at there" in (await bench.plan()).notes


@pytest.mark.parametrize("room", [0, 1, 2, None])
async def test_the_plan_refuses_what_the_new_provider_has_no_room_for(
    bench: MovingBench, monkeypatch: pytest.MonkeyPatch, room: int | None
) -> None:
    for name in ("A", "B"):
        await bench.create(name)

    async def tell(_: object) -> int | None:
        return room

    monkeypatch.setattr(MemoryProvider, "room_for_lists", tell)
    refusals = (await bench.plan()).refusals
    if room in (0, 1):
        assert refusals == [f"there has room for {room} more lists, 2 are needed: delete some there"]
    else:
        assert refusals == []


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (AuthFailed("403 no right to read"), "memory does not show who is on a list: 403 no right to read"),
        (Refused(detail="not in your plan"), "memory refuses to show who is on a list: not in your plan"),
        (Unsupported("it lists nobody"), "memory cannot show who is on a list: it lists nobody"),
    ],
)
async def test_the_plan_refuses_where_nobody_can_be_read(
    bench: MovingBench, error: ProviderError, refusal: str
) -> None:
    await bench.bring(await bench.create(), person(1))
    bench.esp.script = [None, error]  # the check is well
    assert (await bench.plan()).refusals == [refusal]


async def test_the_plan_refuses_a_key_that_does_not_work_and_says_what_to_do(
    bench: MovingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.create()

    async def check(_: object) -> list[Finding]:
        return [Finding(False, Message("the key is refused"), Message("Make another one."))]

    monkeypatch.setattr(MemoryProvider, "check", check)
    refused = "the key is refused. Make another one."
    assert (await bench.plan()).refusals == [f"memory: {refused}", f"there: {refused}"]


async def test_the_plan_refuses_lists_at_a_provider_that_the_settings_do_not_have(bench: MovingBench) -> None:
    await bench.create()
    del bench.config.providers["memory"]
    assert (await bench.plan()).refusals == ["memory is not in the settings; put it there, under this name"]
