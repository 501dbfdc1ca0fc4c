"""What the bridge counts, in Prometheus' terms, and lately by the minute. One registry per running bridge."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bridge.clock import Clock
from bridge.history import History

RequestOutcome: TypeAlias = Literal["done", "pending", "refused", "failed", "unavailable", "bad_request", "wrong_token"]
"""How a request was answered, in one word."""

ContactOutcome: TypeAlias = Literal["delivered", "opted_out", "rejected", "postponed"]
"""What became of a contact, in one word."""

_CALL_BUCKETS_S = (0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 600)
_DELIVERY_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600)


class Metrics:
    """All metrics; names start with `planfix_bridge_`."""

    def __init__(self, clock: Clock) -> None:
        self.registry = CollectorRegistry()
        self.recent_requests = History(clock)
        self.recent_contacts = History(clock)
        self.requests = Counter(
            "planfix_bridge_requests",
            "Requests of Planfix, by action and how they were answered",
            ["account", "action", "outcome"],
            registry=self.registry,
        )
        self.request_s = Histogram(
            "planfix_bridge_request_seconds",
            "Time from a request's arrival to its answer",
            ["action"],
            registry=self.registry,
        )
        self.delivery_s = Histogram(
            "planfix_bridge_delivery_seconds",
            "Time from a change's arrival to its outcome at the provider",
            ["account"],
            buckets=_DELIVERY_BUCKETS_S,
            registry=self.registry,
        )
        self.outcomes = Counter(
            "planfix_bridge_contacts",
            "Contacts by what became of them: delivered, opted_out, rejected, postponed",
            ["account", "outcome"],
            registry=self.registry,
        )
        self.calls = Histogram(
            "planfix_bridge_provider_call_seconds",
            "Calls of the provider, by operation and how they ended (ok, or the kind of error)",
            ["provider", "operation", "ended"],
            buckets=_CALL_BUCKETS_S,
            registry=self.registry,
        )
        self.pending = Gauge(
            "planfix_bridge_outbox_changes", "Changes not delivered yet", ["account"], registry=self.registry
        )
        self.held = Gauge(
            "planfix_bridge_outbox_held",
            "Removals that the guard holds until a person releases them",
            ["account"],
            registry=self.registry,
        )
        self.oldest_s = Gauge(
            "planfix_bridge_outbox_oldest_seconds",
            "Age of the oldest change not delivered yet",
            ["account"],
            registry=self.registry,
        )
        self.provider_up = Gauge(
            "planfix_bridge_provider_up",
            "1 while the provider answers, 0 while it is away or refuses the key",
            ["account", "provider"],
            registry=self.registry,
        )

    def answered(self, account: str, action: str, outcome: RequestOutcome) -> None:
        """A request of Planfix was answered; account and action are empty where they were not known."""
        self.requests.labels(account, action, outcome).inc()
        self.recent_requests.count(outcome)

    def settled(self, account: str, counts: Mapping[ContactOutcome, int]) -> None:
        """Something became of so many contacts."""
        for outcome, count in counts.items():
            self.outcomes.labels(account, outcome).inc(count)
            self.recent_contacts.count(outcome, count)

    def text(self) -> bytes:
        """All of it in the Prometheus text format."""
        return generate_latest(self.registry)
