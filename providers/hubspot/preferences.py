"""Communication preferences, API v4: what an address has opted out of.

HubSpot keeps them by address, whether or not a contact has it. The calls for many addresses at one time are for
Marketing Hub Enterprise alone, so these are for one.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from providers.answers import Answer, CallRefused
from providers.base import ContactRefused

_PREFERENCES: Final = "/communication-preferences/v4"
_STATUSES: Final = f"{_PREFERENCES}/statuses/{{}}"
_CHANNEL: Final = {"channel": "EMAIL"}
_OUT: Final = "UNSUBSCRIBED"


@dataclass(frozen=True, slots=True)
class OptOuts:
    """Whether an address is out of all mail, and the ids of the subscription types that it is out of."""

    of_all: bool = False
    types: frozenset[int] = frozenset()

    def __or__(self, other: "OptOuts") -> "OptOuts":
        return OptOuts(self.of_all or other.of_all, self.types | other.types)


class Preferences:
    """`call` is the provider's."""

    def __init__(self, call: Callable[..., Awaitable[Answer]]) -> None:
        self._call = call

    async def types(self) -> list[str]:
        """The ids of all subscription types."""
        answer = await self._call("types", "GET", f"{_PREFERENCES}/definitions")
        return [str(one["id"]) for one in answer.json()["results"]]

    async def properties(self) -> list[str]:
        """The properties of contacts that tell opt-outs: from all mail, and from each subscription type."""
        return ["hs_email_optout", *(f"hs_email_optout_{one}" for one in await self.types())]

    async def of(self, address: str) -> OptOuts:
        """Raises ContactRefused for an address that HubSpot does not take."""
        wide = await self._read(f"{_STATUSES}/unsubscribe-all", address)
        single = await self._read(_STATUSES, address)
        of_all = any(one["status"] == _OUT for one in wide)
        return OptOuts(of_all, frozenset(int(one["subscriptionId"]) for one in single if one["status"] == _OUT))

    async def _read(self, path: str, address: str) -> list[Any]:
        try:
            answer = await self._call("opt_outs", "GET", path, address, query=_CHANNEL)
        except CallRefused as refused:
            raise ContactRefused(detail=refused.detail) from refused
        return list(answer.json()["results"])

    async def unsubscribe(self, address: str, type_id: int | None = None) -> None:
        """Puts an address out of one type, or of all mail. Raises ContactRefused when it is not out afterwards."""
        try:
            if type_id is None:
                await self._call("keep_out", "POST", f"{_STATUSES}/unsubscribe-all", address, query=_CHANNEL)
            else:
                body = {
                    "subscriptionId": type_id,
                    "statusState": _OUT,
                    "legalBasis": "LEGITIMATE_INTEREST_OTHER",
                    "legalBasisExplanation": "Unsubscribed under an earlier address.",
                }
                await self._call("keep_out", "POST", _STATUSES, address, json=body | _CHANNEL)
        except CallRefused as refused:
            # Perhaps for being out already, which nobody documents: so it is looked at.
            there = await self.of(address)
            if not (there.of_all or type_id in there.types):
                raise ContactRefused(detail=refused.detail) from refused
