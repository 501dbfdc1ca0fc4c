"""A running bridge without its HTTP: what is built from the configuration, in which order it starts and stops."""

import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Self

import structlog

from bridge.actions import Actions
from bridge.clock import Clock
from bridge.config import Account, Config
from bridge.couriers import Couriers
from bridge.elsewhere import Elsewhere
from bridge.guard import RemovalGuard
from bridge.intake import Intake
from bridge.lists import Lists
from bridge.metrics import Metrics, RequestOutcome
from bridge.planfix import Request
from bridge.provider_pool import Prepared, ProviderPool
from bridge.replicas import Message, open_replicas
from bridge.replies import Failure, ListCreated, Outcome, Tally, Unavailable
from bridge.store import Store, StoreError
from bridge.tickets import Tickets

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Tokens:
    """Which account a token belongs to.

    Tokens are compared as hashes under a key of this process: how long that takes says nothing of any token.
    """

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self._key = secrets.token_bytes(32)
        self._accounts = {
            self._digest(token.reveal()): account for account in accounts.values() for token in account.tokens
        }

    def account_of(self, token: str) -> Account | None:
        return self._accounts.get(self._digest(token))

    def _digest(self, token: str) -> bytes:
        return hmac.digest(self._key, token.encode("utf-8", "surrogatepass"), hashlib.sha256)


class Bridge:
    """Opens the store and takes up what an earlier run left; `handle` carries out requests until it is closed."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self.config = config
        self.clock = clock or Clock()
        self.metrics = Metrics(self.clock)
        self.tickets = Tickets()
        self.tokens = Tokens(config.accounts)
        self._stack = AsyncExitStack()
        self._elsewhere: Elsewhere | None = None
        self.store: Store
        self.providers: ProviderPool
        self.couriers: Couriers
        self._intake: Intake
        self.actions: Actions

    async def __aenter__(self) -> Self:
        """Raises StoreError when the store cannot be opened."""
        async with AsyncExitStack() as stack:
            self.store = await Store.open(self.config.store)
            stack.push_async_callback(self.store.close)
            replicas = await open_replicas(self.config.store, self._heard)
            stack.push_async_callback(replicas.close)
            self.providers = ProviderPool(
                self.config.providers, self.metrics, partial(self.store.under_way, now=self.clock.now)
            )
            self.couriers = Couriers(
                self.providers,
                store=self.store,
                tickets=self.tickets,
                metrics=self.metrics,
                clock=self.clock,
                replicas=replicas,
                guarded=self.config.guard is not None,
            )
            elsewhere = self._elsewhere = Elsewhere(self.store, self.tickets, self.couriers, self.clock)
            stack.push_async_callback(elsewhere.close)
            stack.push_async_callback(self._stop_couriers)
            self._intake = Intake(self.store, self.tickets, replicas, self.couriers.stored, self._guard())
            self.actions = Actions(
                lists=Lists(self.store, self.clock),
                intake=self._intake,
                tickets=self.tickets,
                providers=self.providers,
                couriers=self.couriers,
                elsewhere=elsewhere,
                clock=self.clock,
                reply_within_s=self.config.server.reply_within_s,
            )
            stack.push_async_callback(self.actions.close)
            await self.couriers.start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def take_over(self, config: Config, prepared: Prepared) -> None:
        """Goes on with other settings from the next request on; `prepared` is what `providers` made of them.

        What `bridge.reload` says needs a restart must be as it was.
        """
        self.config = config
        self.tokens = Tokens(config.accounts)
        self.actions.reply_within_s = config.server.reply_within_s
        self._intake.guard = self._guard()
        self.couriers.take_over(config.providers, prepared, guarded=config.guard is not None)

    def _guard(self) -> RemovalGuard | None:
        judged_by = self.config.guard
        return RemovalGuard(self.store.removals, judged_by, self.clock) if judged_by else None

    async def _stop_couriers(self) -> None:
        await self.couriers.stop(self.config.server.grace_s)

    def _heard(self, message: Message) -> None:
        if self._elsewhere is not None:  # before, the outbox is still to be read, and tells the same
            self._elsewhere.heard(message)

    async def handle(self, account: Account, request: Request) -> Outcome:
        """What came of a request; a store that fails is a Failure, never a success."""
        action = type(request).__name__
        action = action[0].lower() + action[1:]
        started_s = time.monotonic()
        try:
            outcome = await self.actions.handle(account, request)
        except StoreError as error:
            log.error("store_failed", detail=str(error))
            outcome = Failure("storage")
        duration_s = time.monotonic() - started_s
        self.metrics.answered(account.name, action, _told(outcome))
        self.metrics.request_s.labels(action).observe(duration_s)
        log.info("request", account=account.name, action=action, duration_s=round(duration_s, 4), **_counts(outcome))
        return outcome

    async def measure(self) -> bytes:
        """All metrics as text, those of the outbox read just now. Raises StoreError."""
        now = self.clock.now()
        depths = {depth.account: depth for depth in await self.store.outbox.depths()}
        held: Counter[str] = Counter()
        for each in await self.store.removals.held():
            held[each.account] += each.removals
        for account in {*self.config.accounts, *depths}:
            depth = depths.get(account)
            self.metrics.pending.labels(account).set(depth.pending if depth else 0)
            self.metrics.held.labels(account).set(held[account])
            self.metrics.oldest_s.labels(account).set(max(0.0, now - depth.oldest_at) if depth else 0)
        return self.metrics.text()


def _told(outcome: Outcome) -> RequestOutcome:
    match outcome:
        case ListCreated():
            return "done"
        case Unavailable():
            return "unavailable"
        case Failure():
            return "failed"
        case Tally(failure=Failure()):
            return "failed"
        case Tally(rejected_count=rejected, delivered=0, pending=0) if rejected:
            return "refused"
        case Tally(pending=pending) if pending:
            return "pending"
        case Tally():
            return "done"


def _counts(outcome: Outcome) -> dict[str, object]:
    match outcome:
        case Tally(delivered, pending, _, rejected, failure):
            counts: dict[str, object] = {"delivered": delivered, "pending": pending, "rejected": rejected}
            return counts | ({"failure": failure.code} if failure else {})
        case Failure(code):
            return {"failure": code}
        case ListCreated(list_id):
            return {"list": list_id}
        case Unavailable():
            return {"failure": "esp_down"}
