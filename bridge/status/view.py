"""What the status page shows: facts and messages, in no language yet. Nothing here holds an address."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from bridge.checks import Checked, Checks
from bridge.config import ProviderConfig
from bridge.delivery import Health, State
from bridge.registry import provider_class
from bridge.service import Bridge
from bridge.status.activity import Activity, activities
from bridge.store import Held, ListState, ListSummary, Problem
from providers.base import Message

LISTS_SHOWN: Final = 200
PROBLEMS_SHOWN: Final = 50
OLD_S: Final = 15 * 60.0
"""Changes that wait for longer, with nothing known that keeps them, need a look."""

STATES: Final = {
    State.UP: Message("works"),
    State.DOWN: Message("does not answer"),
    State.KEY_REFUSED: Message("refuses its key"),
}
LIST_STATES: Final = {
    ListState.CREATING: Message("is being made"),
    ListState.MOVING: Message("is being moved"),
    ListState.DELETING: Message("is being deleted"),
}


@dataclass(frozen=True, slots=True)
class Attention:
    """Something that a person should look at; `anchor` is the section of the page that tells more."""

    message: Message
    anchor: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the deliveries of one account go. `health` is None when there was nothing to deliver since the start."""

    account: str
    health: Health | None


@dataclass(frozen=True, slots=True)
class ProviderView:
    """A provider of the settings, or one that lists still live at: then `title` is None."""

    name: str
    title: str | None
    deliveries: Sequence[Delivery]
    checked: Checked | None

    @property
    def anchor(self) -> str:
        return f"provider-{self.name}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one account has in the outbox: how many changes, how many of them held, the age of the oldest."""

    account: str
    pending: int
    held: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class ListProblem:
    """A refused change, and the name of its list."""

    problem: Problem
    list_name: str


@dataclass(frozen=True, slots=True)
class Page:
    """All that one view of the page shows. Times are Unix times. `lists` and `problems` may be cut off."""

    at: float
    began_at: float
    version: str
    attention: Sequence[Attention]
    providers: Sequence[ProviderView]
    waiting: Sequence[Waiting]
    held: Sequence[Held]
    activities: Sequence[Activity]
    lists: Sequence[ListSummary]
    list_count: int
    problems: Sequence[ListProblem]
    more_problems: bool


async def look(bridge: Bridge, checks: Checks) -> Page:
    """The state of the bridge at this moment. Raises StoreError."""
    now = bridge.clock.now()
    summaries = await bridge.store.lists.summaries()
    held = await bridge.store.removals.held()
    problems = await bridge.store.memory.problems(limit=PROBLEMS_SHOWN + 1)
    waiting = await _waiting(bridge, held, now)
    providers = _providers(bridge, checks, summaries)
    names = {summary.mapped.public_id: summary.mapped.name for summary in summaries}
    return Page(
        at=now,
        began_at=bridge.metrics.recent_requests.began_at,
        version=version("planfix-bridge"),
        attention=[*_of_providers(providers), *_of_waiting(waiting, providers), *_of_people(held, problems)],
        providers=providers,
        waiting=waiting,
        held=held,
        activities=activities(bridge.metrics, now),
        lists=summaries[:LISTS_SHOWN],
        list_count=len(summaries),
        problems=[ListProblem(each, names.get(each.public_id, "")) for each in problems[:PROBLEMS_SHOWN]],
        more_problems=len(problems) > PROBLEMS_SHOWN,
    )


async def _waiting(bridge: Bridge, held: Sequence[Held], now: float) -> list[Waiting]:
    held_of: Counter[str] = Counter()
    for each in held:
        held_of[each.account] += each.removals
    return [
        Waiting(depth.account, depth.pending, held_of[depth.account], max(0.0, now - depth.oldest_at))
        for depth in sorted(await bridge.store.outbox.depths(), key=lambda depth: depth.account)
    ]


def _providers(bridge: Bridge, checks: Checks, summaries: Sequence[ListSummary]) -> list[ProviderView]:
    """Those of the settings first, each with every account that delivers to it or would."""
    settings = bridge.config.providers
    pairs: dict[tuple[str, str], Health | None] = {
        (account.name, account.provider): None for account in bridge.config.accounts.values()
    }
    pairs |= {
        (item.mapped.account, item.mapped.provider): None for item in summaries if item.mapped.provider not in settings
    }
    pairs |= {(account, provider): health for account, provider, health in bridge.couriers.health()}
    return [
        ProviderView(
            name,
            _title(settings.get(name)),
            [Delivery(account, seen) for (account, provider), seen in pairs.items() if provider == name],
            checks.last(name),
        )
        for name in dict.fromkeys([*settings, *(provider for _, provider in pairs)])
    ]


def _title(config: ProviderConfig | None) -> str | None:
    return None if config is None else provider_class(config.type).title


def _of_providers(providers: Sequence[ProviderView]) -> Iterator[Attention]:
    for provider in providers:
        if provider.title is None:
            message = Message(
                "Lists live at %(provider)s, which is not in the settings any more. Put it back under the same name.",
                provider=provider.name,
            )
            yield Attention(message, provider.anchor)
        for delivery in provider.deliveries:
            names = {"provider": provider.name, "account": delivery.account}
            match delivery.health:
                case Health(state=State.DOWN):
                    message = Message(
                        "%(provider)s does not answer (account %(account)s). Nothing is lost: changes wait and go when "
                        "it is back. A check may tell whose fault it is.",
                        **names,
                    )
                    yield Attention(message, provider.anchor)
                case Health(state=State.KEY_REFUSED):
                    message = Message(
                        "%(provider)s refuses its key (account %(account)s). Put a working key into the bridge's "
                        "settings and restart it. Nothing is lost: changes wait for the key.",
                        **names,
                    )
                    yield Attention(message, provider.anchor)
        if provider.checked is not None and not provider.checked.ok:
            message = Message("The last check of %(provider)s found something to mend.", provider=provider.name)
            yield Attention(message, provider.anchor)


def _of_waiting(waiting: Sequence[Waiting], providers: Sequence[ProviderView]) -> Iterator[Attention]:
    away = {
        delivery.account
        for provider in providers
        for delivery in provider.deliveries
        if provider.title is None or (delivery.health is not None and delivery.health.state is not State.UP)
    }
    for each in waiting:
        if each.oldest_s > OLD_S and not each.held and each.account not in away:
            message = Message(
                "Changes of the account %(account)s have waited for longer than 15 minutes. Look at the bridge's log.",
                account=each.account,
            )
            yield Attention(message, "waiting")


def _of_people(held: Sequence[Held], problems: Sequence[Problem]) -> Iterator[Attention]:
    if held:
        count = sum(each.removals for each in held)
        yield Attention(Message("Removals wait for your decision: %(count)s.", count=count), "held")
    if problems:
        yield Attention(Message("Some contacts were refused. The table says what to do about each."), "problems")
