"""All lists of a plan, one after the other: tried again when a provider is away, given up where one refuses; and the
end of old lists."""

import asyncio
import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from bridge.clock import Clock
from bridge.lists import Lists
from bridge.moves.move import Move
from bridge.moves.opt_outs import Heard, LateOptOuts, remember_kept_out
from bridge.moves.plan import Plan, Step
from bridge.moves.providers import OpenProviders
from bridge.moves.reading import OldListGone
from bridge.moves.report import Report
from bridge.store import IN_USE, ListState, MappedList, NotMoving, Result, Store
from providers.base import Provider, ProviderError, Reason, Refused, Transient

TRIES: Final = 8
"""Of one list without any progress."""

WAIT_MAX_S: Final = 60.0
LONGEST_WAIT_S: Final = 15 * 60.0
"""A provider that asks for more patience is given up: the list's changes must not wait for ever."""


class State(enum.StrEnum):
    """How a list came out of its move."""

    MOVED = "moved"
    STAYED = "stayed"
    DELETED = "deleted"  # by Planfix, meanwhile


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of one list; `detail` says why it stayed, or what is left to do."""

    mapped: MappedList
    target: str
    state: State
    counts: dict[Result, int] = field(default_factory=dict)
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """One old list: gone, or why not."""

    copy: MappedList
    gone: bool
    detail: str = ""


class Switch:
    """Carries out plans. `watch(step, members)` hears of progress, `say(text)` of what is waited for."""

    def __init__(
        self,
        store: Store,
        providers: OpenProviders,
        clock: Clock,
        *,
        watch: Callable[[Step, int], None] = lambda step, members: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._store = store
        self._providers = providers
        self._clock = clock
        self._watch = watch
        self._say = say
        self._lists = Lists(store, clock)
        self._progress = False
        self._remembered: set[str] = set()  # providers whose accounts told whom they keep out, in this run
        self._backoff = wait_random_exponential(multiplier=1, min=0.5, max=WAIT_MAX_S)

    async def tidy(self, plan: Plan) -> None:
        """Ends what broke off and is not to go on: moves to somewhere else, copies of lists that Planfix deleted. Of
        lists that had turned, hears the last opt-outs."""
        for mapped in plan.staying:
            await self._store.moves.give_up(mapped.id)
        await self._end_copies_of_deleted_lists(plan.account)
        copies = await self._store.lists.copies(plan.account)
        unheard = [copy for copy in copies if copy.state is ListState.LEFT and copy.provider in self._providers]
        told = await LateOptOuts(self._store, self._providers, self._clock).hear(unheard)
        for detail in {_what_is_left(heard) for heard in told if heard.error}:
            self._say(detail)

    async def apply(self, plan: Plan, report: Report) -> list[Moved]:
        """Moves the lists of a plan that has no refusals; ends early where the next ones could not be moved either.

        Who opted out between the last look at an old list and its turn is out too: each old list is heard right after
        its turn, and the old accounts after the last one."""
        told: list[Moved] = []
        late = LateOptOuts(self._store, self._providers, self._clock, since=self._clock.now())
        for step in plan.steps:
            moved = await self._move(step, report)
            report.whole_list(str(step.mapped.public_id), moved.state, moved.detail)
            told.append(moved)
            if moved.state is State.STAYED and moved.detail != _GONE:
                break
            left = await self._store.lists.copy_at(step.mapped.id, step.mapped.provider)
            if moved.state is State.MOVED and left is not None:
                await late.hear_list(left)
        unheard = {heard.original.id: heard for heard in await late.hear_accounts() if heard.error}
        for at, moved in enumerate(told):
            if moved.mapped.id in unheard:
                told[at] = replace(moved, detail=_what_is_left(unheard[moved.mapped.id]))
                report.whole_list(str(moved.mapped.public_id), moved.state, told[at].detail)
        return told

    async def clean_up(self, account: str) -> list[Cleaned]:
        """Deletes all places where lists of the account do not live any more, when their last opt-outs were heard."""
        return await self._end(await self._store.lists.copies(account))

    # One list

    async def _move(self, step: Step, report: Report) -> Moved:
        detail = ""
        counts: dict[Result, int] | None = None
        try:
            old = await self._providers.get(step.mapped.provider)
            new = await self._providers.get(step.target)
            counts = await self._patiently(partial(self._try, step, old, new, report))
        except NotMoving:
            detail = "the move was given up by another command"
        except OldListGone:
            detail = _GONE
        except ProviderError as error:
            detail = _in_words(error)
        finally:
            if counts is None:
                await self._let_go(step)
        if counts is not None:
            return Moved(step.mapped, step.target, State.MOVED, counts)
        present = await self._store.lists.by_id(step.mapped.id)
        state = State.STAYED if present.state in IN_USE else State.DELETED
        return Moved(step.mapped, step.target, state, detail=detail if state is State.STAYED else "")

    async def _try(self, step: Step, old: Provider[Any], new: Provider[Any], report: Report) -> dict[Result, int]:
        if step.mapped.provider not in self._remembered:
            await remember_kept_out(self._store, step.mapped.account, old, self._clock.now())
            self._remembered.add(step.mapped.provider)
        copy = await self._copy(step, new)
        watch = partial(self._watched, step)
        people = partial(report.people, str(step.mapped.public_id))
        move = Move(step.mapped, copy, old, new, store=self._store, clock=self._clock, watch=watch)
        try:
            return await move.run(people)
        except Refused as error:
            if error.reason is not Reason.LIST_GONE:
                raise
            # Somebody deleted the list that was to be filled: another one is made.
            await self._store.moves.give_up(step.mapped.id)
            await self._store.moves.forget(copy.id)
            raise Transient("the list was deleted at the new provider while it was filled") from error

    async def _copy(self, step: Step, new: Provider[Any]) -> MappedList:
        """Where the list is to live. A move to somewhere else that broke off is given up."""
        present = await self._store.lists.by_id(step.mapped.id)
        if present.state not in IN_USE:
            raise NotMoving
        copy = await self._lists.copy_at(step.mapped, step.target, new)
        if present.state is ListState.MOVING and copy.state is not ListState.FILLING:
            await self._store.moves.give_up(step.mapped.id)
        return copy

    async def _let_go(self, step: Step) -> None:
        """The list has not turned: its changes go on where it is. What was filled for a list that is gone goes too."""
        await self._store.moves.give_up(step.mapped.id)
        await self._end_copies_of_deleted_lists(step.mapped.account)

    async def _patiently(self, work: Callable[[], Awaitable[dict[Result, int]]]) -> dict[Result, int]:
        """Tries again what may be repeated, as long as it comes on."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Transient),
            wait=self._wait_s,
            stop=self._is_hopeless,
            sleep=self._pause,
            reraise=True,
        )
        return await retrying(work)

    def _watched(self, step: Step, members: int) -> None:
        self._progress = True
        self._watch(step, members)

    def _wait_s(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked_s = error.retry_after_s if isinstance(error, Transient) else None
        wait_s = asked_s if asked_s is not None else self._backoff(state)
        self._say(f"waits {wait_s:.0f} s: {getattr(error, 'detail', '')}")
        return wait_s

    def _is_hopeless(self, state: RetryCallState) -> bool:
        if self._progress:
            state.attempt_number, self._progress = 1, False
        return state.attempt_number >= TRIES or state.upcoming_sleep > LONGEST_WAIT_S

    async def _pause(self, wait_s: float) -> None:
        await self._clock.wait(asyncio.Event(), wait_s)

    # The end of old lists

    async def _end_copies_of_deleted_lists(self, account: str) -> None:
        ending = []
        for copy in await self._store.lists.copies(account):
            never_in_use = copy.left_at is None or copy.state is ListState.FILLING
            if never_in_use and copy.copy_of is not None:
                original = await self._store.lists.by_id(copy.copy_of)
                if original.state in (ListState.DELETING, ListState.DELETED):
                    ending.append(copy)
        await self._end(ending)

    async def _end(self, copies: Sequence[MappedList]) -> list[Cleaned]:
        stay = {copy.id: await self._reason_to_stay(copy) for copy in copies}
        late = LateOptOuts(self._store, self._providers, self._clock)
        told = await late.hear([copy for copy in copies if not stay[copy.id] and copy.provider_list_id is not None])
        stay |= {heard.copy.id: _in_words(heard.error) for heard in told if heard.error}
        return [await self._delete(copy, stay[copy.id]) for copy in copies]

    async def _reason_to_stay(self, copy: MappedList) -> str:
        original = await self._store.lists.by_id(int(copy.copy_of or 0))
        if original.state is ListState.MOVING:
            return "the list is being moved: end that first, by the same command or by --back"
        if copy.provider not in self._providers:
            return f"{copy.provider} is not in the settings; put it back there"
        return ""

    async def _delete(self, copy: MappedList, stay: str) -> Cleaned:
        if stay:
            return Cleaned(copy, False, stay)
        provider = await self._providers.get(copy.provider)
        try:
            list_id = copy.provider_list_id or await self._begun(copy, provider)
            if list_id is not None:
                await provider.delete_list(list_id)
        except ProviderError as error:
            return Cleaned(copy, False, _in_words(error))
        await self._store.moves.forget(copy.id)
        return Cleaned(copy, True)

    async def _begun(self, copy: MappedList, provider: Provider[Any]) -> str | None:
        """The list of a making that broke off, if it is there and nobody is on it: else it may be somebody else's."""
        found = await provider.find_list(copy.provider_name)
        if found is None:
            return None
        async for _ in provider.members(found):
            return None
        return found


_GONE: Final = "the list is gone at the old provider: switch the mailing of the filter off and on again in Planfix"


def _in_words(error: ProviderError) -> str:
    return f"{type(error).__name__}: {error.detail}"


def _what_is_left(heard: Heard) -> str:
    detail = "" if heard.error is None else heard.error.detail
    return f"the last opt-outs could not be read ({detail}): planfix-bridge verify ACCOUNT --repair"
