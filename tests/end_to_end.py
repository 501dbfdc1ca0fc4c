"""A bridge that listens, a fake ESP that it delivers to over HTTP, and the simulator that plays Planfix at it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from bridge.clock import Clock
from bridge.config import Account, Admin, Config, ProviderConfig, Server
from bridge.server import Listening, listening
from bridge.simulator import Planfix, _Request
from providers.base import Contact, Secret
from providers.sendgrid import SendgridProvider
from providers.testing import EspHarness
from tests.fakes.mailchimp import mailchimp
from tests.fakes.sandbox import SandboxHarness
from tests.fakes.sendgrid import SendgridHarness

TOKEN = "a token of the end-to-end tests"
PROVIDERS = ("sandbox", "mailchimp tag", "mailchimp audience", "sendgrid")
OVER_HTTP = PROVIDERS[1:]


@asynccontextmanager
async def esp_of(kind: str, folder: Path, *, spec: bool = True, **knobs: Any) -> AsyncIterator[EspHarness]:
    """The fake of one of PROVIDERS, or of any other provider by its name; `knobs` are those of its fake."""
    name, _, list_as = kind.partition(" ")
    if name == "sandbox":
        harness = SandboxHarness(folder / "sandbox.db")
        try:
            yield harness
        finally:
            await harness.close()
    elif name == "mailchimp":
        async with mailchimp("tag" if list_as == "tag" else "audience", spec=spec, **knobs) as esp:
            yield esp
    elif name == "sendgrid":
        async with SendgridHarness(validate=spec, **knobs) as quick:
            yield quick
    else:
        async with getattr(import_module(f"tests.fakes.{name}"), name)(**knobs) as other:
            yield other


class QuickClock(Clock):
    """Real time, in which a wait before the next try is never longer than a moment."""

    async def wait(self, event: asyncio.Event, timeout_s: float | None) -> None:
        await super().wait(event, None if timeout_s is None else min(timeout_s, 0.05))


def config_of(store_url: str, provider: str, esps: dict[str, EspHarness], **server: Any) -> Config:
    """One account at `provider`; `esps` are all that the configuration knows, by name."""
    return Config(
        server=Server(**{"port": 0, "grace_s": 1.0, **server}),
        admin=Admin(port=0),
        store=store_url,
        accounts={"main": Account(name="main", tokens=(Secret(TOKEN),), provider=provider)},
        providers={
            name: ProviderConfig(name=name, type=esp.provider.name, settings=esp.provider.settings)
            for name, esp in esps.items()
        },
    )


class ByHand(Planfix):
    """The simulator, with single changes chosen by the test."""

    async def update(self, action: str, contact: Contact, old_address: str | None = None) -> None:
        """One updateContact."""
        data: dict[str, object] = {"listId": self.list_id, "action": action, "contact": self._wire(contact)}
        if old_address is not None:
            data["oldEmail"] = old_address
        self._filter[contact.id] = contact
        if action == "delete":
            del self._filter[contact.id]
        await self._ask(_Request(self._step(action), "updateContact", data))


class Stage:
    """An ESP, a bridge and Planfix. `restart` starts the bridge anew at its port, perhaps with another `config`."""

    def __init__(self, esp: EspHarness, config: Config, clock: Clock | None = None) -> None:
        self.esp = esp
        self.config = config
        self._clock = clock
        self._running = AsyncExitStack()
        self._port = 0
        self.bridge: Listening

    async def __aenter__(self) -> "Stage":
        server = replace(self.config.server, port=self._port)
        config = replace(self.config, server=server)
        self.bridge = await self._running.enter_async_context(listening(config, self._clock))
        self._port = urlsplit(self.bridge.url).port or 0
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    async def restart(self) -> None:
        await self._running.aclose()
        await self.__aenter__()

    def planfix(self, **options: Any) -> ByHand:
        return ByHand(self.bridge.url, TOKEN, **options)

    async def mailable(self, planfix: Planfix) -> dict[str, tuple[str, str]]:
        return await self.esp.mailable(str(planfix.list_id).partition(":")[2])

    async def delivered(self, deadline_s: float = 60.0) -> None:
        """Returns when nothing is pending; the deadline only ends a test that would hang."""
        async with asyncio.timeout(deadline_s):
            while await self.bridge.bridge.store.outbox.depths():  # noqa: ASYNC110 - the store tells nobody
                await asyncio.sleep(0.01)


def listed(contacts: Iterable[Contact]) -> dict[str, tuple[str, str]]:
    """`contacts` as `EspHarness.mailable` shows them."""
    return {c.address.lower(): (c.first_name or "", c.last_name or "") for c in contacts}


def look_at_jobs_at_once(set_attribute: Callable[[object, str, object], None]) -> None:
    """The fake SendGrid needs no time for its jobs."""
    set_attribute(SendgridProvider, "first_poll_s", 0.001)
