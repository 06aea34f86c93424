import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError
from netem.lab.cable import Cable, attachments_of, hosts_of, next_hops
from netem.profiles import scenario

CLEAN = scenario("clean")
NAMES = st.sampled_from("abcdefgh")
CABLES = st.lists(
    st.tuples(NAMES, NAMES).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: Cable(CLEAN, *pair)),
    min_size=1,
    max_size=12,
)


def test_a_cable_needs_two_hosts() -> None:
    with pytest.raises(ConfigurationError, match="joins 'a' to itself"):
        Cable(CLEAN, "a", "a")


@pytest.mark.parametrize("mtu", [0, 576, 1279, 65_536, 1280.5, True])
def test_an_mtu_without_ipv6_is_refused(mtu: int) -> None:
    with pytest.raises(ConfigurationError, match=f"mtu is {mtu}"):
        Cable(CLEAN, mtu=mtu)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "my.laptop", "a\0b", "é", "x" * 61, 1])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    for names in ((name, "server"), ("client", name)):
        with pytest.raises(ConfigurationError, match="a host is named"):
            Cable(CLEAN, *names)


def test_a_cable_needs_a_scenario() -> None:
    with pytest.raises(ConfigurationError, match="plays a Scenario, not 'clean'"):
        Cable("clean")  # type: ignore[arg-type]


def test_too_many_cables_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="251 cables"):
        attachments_of([Cable(CLEAN)] * 251)


@given(CABLES)
def test_both_ends_of_a_cable_know_each_other(cables: list[Cable]) -> None:
    attachments = attachments_of(cables)
    assert set(attachments) == set(hosts_of(cables))
    seen: set[str] = set()
    for name, ends in attachments.items():
        for end in ends:
            (other,) = [each for each in attachments[end.peer] if each.interface == end.interface]
            assert (other.peer, other.peer_address, other.peer_address_v6) == (
                name,
                end.address,
                end.address_v6,
            )
            networks = [
                ipaddress.ip_network(f"{address}/24", strict=False)
                for address in (end.address, end.peer_address)
            ]
            assert networks[0] == networks[1]
            ipaddress.IPv6Address(end.address_v6)
            assert end.address not in seen
            seen.add(end.address)


@given(CABLES)
def test_following_the_routes_leads_to_every_host_that_is_joined(cables: list[Cable]) -> None:
    attachments = attachments_of(cables)
    ways = {name: next_hops(attachments, name) for name in attachments}
    for start in attachments:
        reachable = {start}
        while True:
            more = {end.peer for name in reachable for end in attachments[name]} | reachable
            if more == reachable:
                break
            reachable = more
        assert set(ways[start]) == reachable - {start}
        for target in ways[start]:
            here, hops = start, 0
            while here != target:
                here = ways[here][target].peer
                hops += 1
                assert hops <= len(attachments)
