"""One upsert at Mailchimp, whatever a list is there: changed addresses first, then all others."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

from providers.base import Contact, OptedOut, Outcome
from providers.mailchimp.client import BadRequest, NotThere
from providers.mailchimp.members import Members, Raw, former_of, has_bounced, hash_of, owner_of, together


class Upsert(ABC):
    """The state of one call of `upsert_batch`; a subclass says what being on a list means."""

    def __init__(self, members: Members, audience: str, contacts: Sequence[Contact]) -> None:
        self._members = members
        self._audience = audience
        self._contacts = {hash_of(contact.address): contact for contact in contacts}
        self._outcomes: dict[str, Outcome] = {}

    async def run(self) -> list[Outcome]:
        """One outcome per contact, in order."""
        moves = [contact for contact in self._contacts.values() if former_of(contact)]
        plain = [contact for contact in self._contacts.values() if not former_of(contact)]
        await together(self._move(contact) for contact in moves)
        if plain:
            await self._write(plain)
        await self._finish()
        return [self._outcomes[member_id] for member_id in self._contacts]

    @abstractmethod
    async def _write(self, contacts: Sequence[Contact]) -> None:
        """Puts contacts on the list that have no other address there."""

    @abstractmethod
    async def _place(self, contact: Contact) -> None:
        """`_write` for a single contact, whose address may be known."""

    @abstractmethod
    def _saw(self, contact: Contact, raw: Raw) -> None:
        """Takes in what Mailchimp told of a contact's present address."""

    @abstractmethod
    async def _rename(self, contact: Contact, raw: Raw) -> None:
        """Gives a member the contact's present address and takes in the answer; raises what Mailchimp refuses."""

    @abstractmethod
    async def _take_off(self, contact: Contact, raw: Raw) -> None:
        """Takes a member off the list."""

    @abstractmethod
    def _opt_out_of(self, raw: Raw) -> OptedOut | None:
        """How a member opted out, None for one who did not."""

    async def _finish(self) -> None:
        """What is left to do for all contacts together."""
        return

    async def _move(self, contact: Contact) -> None:
        """A contact that had another address: the member is renamed where it is this contact's alone.

        Otherwise the old address leaves the list, and so does one that bounced: renamed it would stay bounced.
        Who opted out under the old address is out under the new one too: Mailchimp gets to know the new address as
        unsubscribed, or it leaves the list.
        """
        ids = former_of(contact)
        found = [raw for member_id in ids if (raw := await self._members.get(self._audience, member_id))]
        free = [raw for raw in found if not self._is_kept(contact, raw)]
        out = next((raw for raw in found if self._opt_out_of(raw)), None)
        own = next(
            (r for r in free if owner_of(r) in ("", contact.id) and out in (None, r) and not has_bounced(r)), None
        )
        renamed = own is not None and await self._try_rename(contact, own)
        if opt_out := out and self._opt_out_of(out):
            await self._keep_out(contact, opt_out, renamed=renamed)
        elif not renamed:
            await self._place(contact)
        for raw in free:
            if not (renamed and raw is own):
                await self._take_off(contact, raw)

    def _is_kept(self, contact: Contact, raw: Raw) -> bool:
        """Whether the old address is another contact's too: by the caller's word, or because that one is in this call.

        The latter may be where only the id of the old address was known.
        """
        holder = self._contacts.get(str(raw["id"]), contact)
        return contact.keep_old or holder.id != contact.id

    async def _try_rename(self, contact: Contact, raw: Raw) -> bool:
        try:
            await self._rename(contact, raw)
        except (BadRequest, NotThere):
            return False
        return True

    async def _keep_out(self, contact: Contact, opt_out: OptedOut, *, renamed: bool) -> None:
        """Makes sure that the present address of somebody who opted out under another gets no mail of this list."""
        member_id = hash_of(contact.address)
        self._outcomes[member_id] = OptedOut(opt_out.how, member_id)
        if renamed:
            return
        known = await self._members.get(self._audience, member_id)
        if known is not None:
            await self._take_off(contact, known)
            return
        merge = await self._members.merge(self._audience, contact)
        with contextlib.suppress(BadRequest):  # an address that Mailchimp does not take gets no mail either
            await self._members.put(self._audience, contact, merge, status_if_new="unsubscribed")
