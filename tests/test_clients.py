"""Whose request it is, behind any row of proxies: the right-most address that no trusted proxy has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.clients import check_networks, client_of

PROXIES = ("10.0.0.0/8", "192.0.2.7", "2001:db8:aa::/48")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.5", [], "203.0.113.5"),
        ("203.0.113.5", ["198.51.100.1"], "203.0.113.5"),  # not a proxy of ours: whatever it says
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
        ("192.0.2.7", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),  # what the client made up stands to the left
        ("192.0.2.7", ["6.6.6.6", "198.51.100.1,10.9.9.9"], "198.51.100.1"),
        ("10.1.2.3", ["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        ("10.1.2.3", ["198.51.100.1, unknown"], "10.1.2.3"),  # not a word of use: the proxy counts itself
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.1.2.3", ["[2001:db8::1]:4711"], "2001:db8::/64"),
        ("2001:db8:aa::1", ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        ("2001:db8:bb::1", ["198.51.100.1"], "2001:db8:bb::/64"),
        ("::ffff:10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
        ("fe80::1%eth0", [], "fe80::/64"),
        (None, [], ""),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_the_client_of_a_request(peer: str | None, forwarded_for: list[str], client: str) -> None:
    assert client_of(peer, forwarded_for, PROXIES) == client


def test_without_trusted_proxies_the_peer_counts() -> None:
    assert client_of("127.0.0.1", ["198.51.100.1"], ()) == "127.0.0.1"


@given(st.lists(st.text("0123456789abcdef.:,[]% x", max_size=30), max_size=4))
def test_no_header_breaks_it_or_speaks_for_a_stranger(forwarded_for: list[str]) -> None:
    client_of("10.1.2.3", forwarded_for, PROXIES)
    assert client_of("203.0.113.5", forwarded_for, PROXIES) == "203.0.113.5"


def test_networks_are_checked() -> None:
    assert check_networks(PROXIES) is None
    assert check_networks(["10.0.0.5/8"]) is None
    for wrong in ("", "proxy.example", "10.0.0.0/33", "10.0.0"):
        assert "10.0.0.0/8" in str(check_networks([wrong]))
