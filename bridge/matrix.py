"""What every provider can do, in words: for `planfix-bridge providers` and for the page that is written from it."""

from pathlib import Path
from typing import Any, Final

import msgspec

import providers
from providers.base import Provider

CONFORMANCE: Final = Path(providers.__file__).with_name("conformance.json")


class Conformance(msgspec.Struct, frozen=True):
    """How many promises of the kit a provider kept when it last ran, of how many."""

    kept: int
    promises: int


def conformance() -> dict[str, Conformance]:
    """The last run of the kit, by provider. A provider of another package is not in it."""
    return msgspec.json.decode(CONFORMANCE.read_bytes(), type=dict[str, Conformance])


def facts_of(cls: type[Provider[Any]]) -> dict[str, tuple[str, str]]:
    """What a provider class declares: name of the fact → its title and its value, for people."""
    can, limits = cls.capabilities, cls.limits
    return {
        "list_is": ("a list is", can.list_is),
        "equal_names": ("two lists of one name", _yes_no(can.equal_names)),
        "lists": ("lists in an account", "no limit known" if limits.lists is None else str(limits.lists)),
        "list_name_chars": ("longest list name", str(limits.list_name_chars)),
        "proof": ("proved against", can.proof),
        "tells_opt_outs": ("says who opted out", _yes_no(can.tells_opt_outs)),
        "takes_opt_outs": ("takes opt-outs from elsewhere", _yes_no(can.takes_opt_outs)),
        "forgets_opt_outs": (
            "remembered by",
            "the bridge, for the service forgets" if can.forgets_opt_outs else "the service and the bridge",
        ),
        "renames_address": (
            "a changed address",
            "keeps the contact" if can.renames_address else "makes a new contact, the old one leaves the list",
        ),
        "one_name": ("names", "one field" if can.one_name else "first and last"),
        "name_chars": ("longest name", "no limit known" if limits.name_chars is None else str(limits.name_chars)),
        "asynchronous": ("works changes off", "later; Planfix is told `pending`" if can.asynchronous else "at once"),
        "batch_size": ("contacts in one batch", str(limits.batch_size)),
        "parallel_calls": ("calls at one time", str(limits.parallel_calls)),
        "calls": ("calls in a time", limits.calls),
    }


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"
