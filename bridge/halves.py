"""A batch that is refused because of a contact that nobody names."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from providers.base import Contact, ContactRefused, Outcome, Rejected

ContactCall: TypeAlias = Callable[[str, Sequence[Contact]], Awaitable[list[Outcome]]]
"""A provider's `upsert` or `remove`."""


async def in_halves(call: ContactCall, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
    """The outcomes of a call; a batch that is refused because of somebody in it is halved until that contact is found.
    Other errors pass."""
    try:
        return await call(list_id, contacts)
    except ContactRefused as error:
        if len(contacts) == 1:
            return [Rejected(error.reason, error.detail)]
        half = len(contacts) // 2
        first = await in_halves(call, list_id, contacts[:half])
        return first + await in_halves(call, list_id, contacts[half:])
