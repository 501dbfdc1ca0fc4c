"""What became of requests and contacts lately, in words, figures and charts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bridge.history import DAY_MINUTES, MINUTE_S, History
from bridge.metrics import Metrics
from bridge.status.chart import Chart, Kind, chart
from providers.base import Message

HOUR_MINUTES: Final = 60
HOUR_BARS: Final = 60
DAY_BARS: Final = 48

# By what `bridge.metrics` calls the outcomes.
REQUESTS: Final[Mapping[str, tuple[Kind, Message]]] = {
    "done": ("fine", Message("Done")),
    "pending": ("waiting", Message("Accepted, delivered later")),
    "refused": ("trouble", Message("Refused by the email service")),
    "failed": ("trouble", Message("Failed")),
    "unavailable": ("trouble", Message("Not possible: the email service was down")),
    "bad_request": ("trouble", Message("Not understood")),
    "wrong_token": ("trouble", Message("Wrong API key")),
}
CONTACTS: Final[Mapping[str, tuple[Kind, Message]]] = {
    "delivered": ("fine", Message("Delivered")),
    "opted_out": ("fine", Message("Opted out: stay without mail")),
    "postponed": ("waiting", Message("Postponed by the email service")),
    "rejected": ("trouble", Message("Refused for good")),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One outcome and how often it came."""

    kind: Kind
    label: Message
    last_hour: int
    last_day: int


@dataclass(frozen=True, slots=True)
class Activity:
    """`rows` are the outcomes that came at all within the day."""

    title: Message
    hour: Chart
    day: Chart
    rows: Sequence[Row]


def activities(metrics: Metrics, now: float) -> list[Activity]:
    """What is charted: requests of Planfix, and contacts."""
    return [
        _activity(Message("Requests of Planfix"), metrics.recent_requests, REQUESTS, now),
        _activity(Message("Contacts"), metrics.recent_contacts, CONTACTS, now),
    ]


def _activity(title: Message, history: History, outcomes: Mapping[str, tuple[Kind, Message]], now: float) -> Activity:
    kinds = {name: kind for name, (kind, _) in outcomes.items()}
    age_minutes = (now - history.began_at) / MINUTE_S

    def look_back(minutes: int, bars: int) -> tuple[Chart, Counter[str]]:
        spans = history.spans(minutes, bars)
        return chart(spans, kinds, 1 - age_minutes / minutes), sum(spans, Counter())

    hour, in_hour = look_back(HOUR_MINUTES, HOUR_BARS)
    day, in_day = look_back(DAY_MINUTES, DAY_BARS)
    rows = [Row(kind, label, in_hour[name], in_day[name]) for name, (kind, label) in outcomes.items() if in_day[name]]
    return Activity(title, hour, day, rows)
