"""What a move would do, looked at before anything is changed: lists, limits, rights, what would be lost."""

from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

from bridge.checks import findings_of
from bridge.moves.providers import OpenProviders
from bridge.store import IN_USE, ListState, ListSummary, MappedList, Store
from providers.base import Finding, Provider, ProviderError, Reason, Refused, Unsupported

PAGE: Final = 500
READS: Final = 3  # of the old list: to copy it, right before its turn, and right after
CALL_S: Final = 0.5
JOB_S: Final = 30.0
"""Guesses, for the estimate: one call, and one batch that a service works off after its answer."""


@dataclass(frozen=True, slots=True)
class Step:
    """One list that is to move. `copy` is its place at the target: None when a new list is made under `name`."""

    mapped: MappedList
    contacts: int
    pending: int
    target: str
    copy: MappedList | None
    name: str

    @property
    def going_on(self) -> bool:
        """Whether an earlier move of it broke off."""
        return self.mapped.state is ListState.MOVING


@dataclass(slots=True)
class Plan:
    """`refusals` are why nothing can be moved, `notes` what people should know. Calls and seconds are estimates.

    `staying` are lists whose move somewhere else broke off: it is given up, and they stay where they are.
    """

    account: str
    steps: list[Step] = field(default_factory=list)
    staying: list[MappedList] = field(default_factory=list)
    findings: list[tuple[str, Finding]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def new_lists(self) -> int:
        return sum(step.copy is None for step in self.steps)


async def plan_to(store: Store, account: str, target: str, providers: OpenProviders) -> Plan:
    """All lists of an account to one provider. Changes nothing."""
    plan = Plan(account)
    for item in await store.lists.summaries(account):
        if item.mapped.state in IN_USE and item.mapped.provider != target:
            plan.steps.append(await _step(store, item, target, providers))
        elif item.mapped.state is ListState.MOVING:
            plan.staying.append(item.mapped)
    await _look_closer(plan, providers)
    return plan


async def plan_back(store: Store, account: str, providers: OpenProviders) -> Plan:
    """The lists of an account to where each was before. Changes nothing."""
    plan = Plan(account)
    copies = await store.lists.copies(account)
    left = {copy.copy_of: copy for copy in copies if copy.left_at is not None}
    begun = {copy.copy_of for copy in copies if copy.state is ListState.FILLING and copy.left_at is None}
    for item in await store.lists.summaries(account):
        if item.mapped.state not in IN_USE:
            continue
        if item.mapped.id in begun:
            plan.staying.append(item.mapped)
        elif item.mapped.id in left:
            plan.steps.append(await _step(store, item, left[item.mapped.id].provider, providers))
    await _look_closer(plan, providers)
    return plan


async def _step(store: Store, item: ListSummary, target: str, providers: OpenProviders) -> Step:
    copy = await store.lists.copy_at(item.mapped.id, target)
    name = item.mapped.name or str(item.mapped.public_id)
    if target in providers:
        name = (await providers.get(target)).list_name(name)
    return Step(item.mapped, item.contacts, item.pending, target, copy, name)


async def _look_closer(plan: Plan, providers: OpenProviders) -> None:
    """Looks at both sides of every step; what cannot be looked at is a refusal."""
    sources = sorted({step.mapped.provider for step in plan.steps})
    targets = sorted({step.target for step in plan.steps})
    for name in dict.fromkeys([*sources, *targets]):
        if name not in providers:
            plan.refusals.append(f"{name} is not in the settings; put it there, under this name")
            continue
        provider = await providers.get(name)
        if not await _is_well(plan, name, provider):
            continue
        if name in sources:
            await _try_reading(plan, name, provider)
        if name in targets:
            await _check_room(plan, name, provider)
    if not plan.refusals:
        for step in plan.steps:
            _note_losses(plan, step, await providers.get(step.mapped.provider), await providers.get(step.target))
            _estimate(plan, step, await providers.get(step.target))
        plan.notes = list(dict.fromkeys(plan.notes))


async def _is_well(plan: Plan, name: str, provider: Provider[Any]) -> bool:
    findings = await findings_of(provider)
    plan.findings += [(name, finding) for finding in findings]
    wrong = [finding for finding in findings if not finding.ok]
    plan.refusals += [f"{name}: {str(each.text).rstrip('.')}. {each.advice or ''}".strip() for each in wrong]
    return not wrong


async def _try_reading(plan: Plan, name: str, provider: Provider[Any]) -> None:
    """One member of the smallest list: whether the key may read, and the service can list, is seen nowhere else."""
    smallest = min((s for s in plan.steps if s.mapped.provider == name), key=lambda step: step.contacts)
    try:
        async for _ in provider.members(str(smallest.mapped.provider_list_id)):
            return
    except Refused as error:
        if error.reason is not Reason.LIST_GONE:
            plan.refusals.append(f"{name} refuses to show who is on a list: {error.detail}")
    except Unsupported as error:
        plan.refusals.append(f"{name} cannot show who is on a list: {error.detail}")
    except ProviderError as error:
        plan.refusals.append(f"{name} does not show who is on a list: {error.detail}")


async def _check_room(plan: Plan, name: str, provider: Provider[Any]) -> None:
    new = sum(step.copy is None for step in plan.steps if step.target == name)
    try:
        room = await provider.room_for_lists()
    except ProviderError as error:
        plan.refusals.append(f"{name} does not tell how many lists it has room for: {error.detail}")
        return
    if room is not None and room < new:
        plan.refusals.append(f"{name} has room for {room} more lists, {new} are needed: delete some there")


def _note_losses(plan: Plan, step: Step, old: Provider[Any], new: Provider[Any]) -> None:
    before, after = old.capabilities, new.capabilities
    whole = step.mapped.name or str(step.mapped.public_id)
    if step.copy is None and step.name != whole:
        plan.notes.append(f"“{whole}” becomes “{step.name}” at {step.target}")
    if after.one_name and not before.one_name:
        plan.notes.append(f"{step.target} keeps first and last name in one field")
    if before.one_name and not after.one_name:
        plan.notes.append(f"{step.mapped.provider} has one name of each person: its last word becomes the last name")
    if new.limits.name_chars and new.limits.name_chars < (old.limits.name_chars or 256):
        plan.notes.append(f"{step.target} cuts names to {new.limits.name_chars} characters")
    if not after.takes_opt_outs:
        plan.notes.append(f"{step.target} takes no opt-outs from elsewhere: the bridge alone remembers them")
    if before.forgets_opt_outs:
        plan.notes.append(f"{step.mapped.provider} forgets opt-outs: whoever has left a list there counts as opted out")
    plan.notes += [f"{step.target}: {line}" for line in after.unsupported]


def _estimate(plan: Plan, step: Step, new: Provider[Any]) -> None:
    writes = ceil(step.contacts / new.limits.batch_size)
    reads = READS * (ceil(step.contacts / PAGE) or 1)
    made = 2 if step.copy is None else 0
    for name, calls in ((step.mapped.provider, reads), (step.target, writes + made)):
        plan.calls[name] = plan.calls.get(name, 0) + calls
    plan.seconds += (reads + made) * CALL_S + writes * (JOB_S if new.capabilities.asynchronous else CALL_S)
