"""What the name of a host tells without asking anybody: who can reach it."""

import ipaddress
from typing import Final

EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not listened on


def is_loopback(host: str) -> bool:
    """Whether `host`, an address or `localhost`, can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def overlap(one: str, other: str) -> bool:
    """Whether two hosts to listen on have an address in common, as far as their names tell."""
    return one == other or not EVERY_ADDRESS.isdisjoint({one, other}) or (is_loopback(one) and is_loopback(other))
