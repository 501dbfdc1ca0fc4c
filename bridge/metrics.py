"""What the bridge counts, in Prometheus' terms. One registry per running bridge."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_CALL_BUCKETS_S = (0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 600)
_DELIVERY_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600)


class Metrics:
    """All metrics; names start with `planfix_bridge_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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

    def text(self) -> bytes:
        """All of it in the Prometheus text format."""
        return generate_latest(self.registry)
