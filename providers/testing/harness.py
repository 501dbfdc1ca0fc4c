"""An email service seen from the test's side: what it holds, what people do there, how it fails."""

import enum
from abc import ABC, abstractmethod
from typing import Any

import msgspec

from providers.base import Contact, Provider
from providers.names import joined


class Fault(enum.StrEnum):
    """What a fake does instead of answering a call well."""

    RATE_LIMIT_SECONDS = "rate_limit_seconds"  # 429, Retry-After: 7
    RATE_LIMIT_DATE = "rate_limit_date"  # 429, Retry-After: an HTTP date about 7 s ahead
    SERVER_ERROR = "server_error"  # 500 with the service's own error body
    EMPTY_503 = "empty_503"
    HTML_502 = "html_502"  # a proxy's page
    CUT_JSON = "cut_json"  # acts, then a 200 whose JSON ends in the middle
    TIMEOUT_AFTER_ACTING = "timeout_after_acting"  # acts, then no answer within the provider's timeout_s
    CONNECTION_RESET = "connection_reset"
    WRONG_KEY = "wrong_key"  # as the service answers to a key that was revoked


class EspHarness(ABC):
    """One provider and the fake service that it talks to.

    The fake must take addresses at `post.test`: the kit's people live there.
    """

    provider: Provider[Any]

    def listed(self, *contacts: Contact) -> dict[str, tuple[str, str]]:
        """`contacts` as `mailable` shows them. Where the ESP has one name field, it stands first and the other is
        empty."""
        return {c.address.lower(): self._shown(c.first_name or "", c.last_name or "") for c in contacts}

    def _shown(self, first_name: str, last_name: str) -> tuple[str, str]:
        if not self.provider.capabilities.one_name:
            return first_name, last_name
        return joined(first_name, last_name, self.provider.limits.name_chars), ""

    @abstractmethod
    async def lists(self) -> dict[str, str]:
        """Id and name of every list at the ESP; not those that the provider has retired because they cannot be
        deleted."""

    @abstractmethod
    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        """Who would get a mailing to the list now: lower-case address → (first name, last name).

        Opted-out, bounced and archived people are not in it, whatever lists they are still on.
        """

    @abstractmethod
    async def opt_out(self, address: str) -> None:
        """The person clicks "unsubscribe" in a mail, of every list that has them. An address that is on no list is
        put out as the ESP knows it: unsubscribed from everything, suppressed, banned; where it knows opt-outs of lists
        only, on every list that there is. Who is unknown is made known first where needed."""

    @abstractmethod
    async def make_list(self, name: str) -> str:
        """Somebody makes a list by hand at the ESP; its id."""

    @abstractmethod
    async def drop_list(self, list_id: str) -> None:
        """Somebody deletes a list by hand at the ESP."""

    @abstractmethod
    def fail(self, fault: Fault, times: int = 1, after: int = 0) -> None:
        """The next `after` calls are answered well, the `times` calls behind them end in `fault`."""

    @abstractmethod
    def heal(self) -> None:
        """Forgets the faults that have not come up yet."""

    @abstractmethod
    def refused_address(self) -> str:
        """A well-formed address that this ESP refuses for good."""

    @abstractmethod
    def calls(self) -> int:
        """Calls that reached the ESP so far."""

    @abstractmethod
    def violations(self) -> list[str]:
        """Limits that were passed and rules of the ESP's spec that were broken so far, in words."""

    def secrets(self) -> list[str]:
        """Keys and tokens that no error text may hold."""
        return []

    async def restart(self, timeout_s: float | None = None) -> None:
        """A new provider object on the same ESP, as after a restart of the bridge; all memory of the old one is lost.

        `timeout_s` replaces the setting of that name. Override it where the provider needs more than its settings.
        """
        settings = self.provider.settings
        if timeout_s is not None:
            settings = msgspec.structs.replace(settings, timeout_s=timeout_s)
        await self.provider.close()
        self.provider = type(self.provider)(settings)
        await self.provider.__aenter__()
