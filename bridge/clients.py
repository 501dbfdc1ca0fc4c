"""Who sent a request: the address that counts, also behind proxies. No I/O."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

HOME_PREFIX_BITS: Final = 64
"""Whoever has one IPv6 address has all of its /64."""


def check_networks(texts: Sequence[str]) -> str | None:
    """What is wrong with a list of addresses and networks, None when nothing is."""
    try:
        _networks(tuple(texts))
    except ValueError:
        return "must hold addresses or networks, such as 10.0.0.5 or 10.0.0.0/8"
    return None


def client_of(peer: str | None, forwarded_for: Sequence[str], trusted: tuple[str, ...]) -> str:
    """The client's address, or its IPv6 network, as a text to count by; empty when it has none.

    `forwarded_for` are the X-Forwarded-For headers of the request. Each proxy adds the address that called it at the
    right end, so what a `trusted` one says is believed, from the right up to the first address that is not trusted.
    """
    hops = [hop for line in forwarded_for for hop in line.split(",")]
    client = _address(peer or "")
    while client is not None and hops and _is_in(client, _networks(trusted)):
        hop = _address(hops.pop())
        if hop is None:
            break  # the proxy says nothing of use: it counts itself
        client = hop
    if isinstance(client, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((client, HOME_PREFIX_BITS), strict=False))
    return str(client or "")


@lru_cache(maxsize=1000)
def _address(text: str) -> Address | None:
    """An address with or without its port; None when it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


@lru_cache(maxsize=8)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
