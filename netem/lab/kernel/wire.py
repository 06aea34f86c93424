"""A cable of the `kernel` backend: a chain of veth pairs, and a process that sets its disciplines."""

from __future__ import annotations

import contextlib
import json
import platform
import socket
from collections.abc import Mapping
from itertools import count

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from eloquent.errors import ConfigurationError
from netem.impairment import Impairment
from netem.lab.kernel.chain import REDIRECTION_MODULES, Chain, redirect
from netem.lab.kernel.counters import Reading, read_counters
from netem.lab.kernel.delays import MAX_JITTER_NS, delay_table
from netem.lab.kernel.hops import PLACES, Interfaces, settings
from netem.lab.kernel.netlink import open_route_socket, qdisc_message, send_all
from netem.lab.kernel.qdiscs import Hold, Loss, Queue
from netem.lab.link_process import LinkProcess, Play
from netem.lab.namespace import Namespace, namespace_name
from netem.lab.wire import End
from netem.link import LinkCounts
from netem.scenario import Direction, Scenario

_DIRECTIONS: tuple[Direction, Direction] = ("up", "down")
_UNIMPAIRED = Scenario("unimpaired", Impairment(), Impairment())
_ANSWER_LIMIT_S = 60.0  # arbitrary; 0.2 s are usual while it starts, 20 s on an emulated machine
_LOOPBACK = 1  # its index in every namespace
_SCRATCH_BYTES = 10_000  # arbitrary
_scratch_serials = count()


class KernelWire:
    """A Wire whose link is tc-netem; see `netem.lab.wire`, and docs/reference/kernel.md.

    Packets that wait in the queue meet a changed rate; all others under way keep their times.
    """

    def __init__(self, client: End, server: End, *, mtu: int) -> None:
        with contextlib.ExitStack() as undo:
            self._chain = Chain(client, server, mtu=mtu)
            undo.callback(self._chain.close)
            with self._chain.namespace.call(open_route_socket) as route:
                for interfaces in self._chain.places.values():
                    send_all(route, _new_disciplines(interfaces, mtu))
                self._process = start_player(route, self._chain.places, mtu=mtu)
            undo.callback(self._process.end)
            self._scenario = _UNIMPAIRED
            self._base = self._read()
            self._final: dict[Direction, LinkCounts] | None = None
            self._undo = undo.pop_all()

    def play(self, scenario: Scenario, *, seed: int, begins_at: float) -> None:
        """Begin a scenario. Raises ConfigurationError where check_playable() does, or LinkFailed."""
        check_playable(scenario)
        self._process.ask(Play(scenario, seed=seed, begins_at=begins_at))
        self._scenario = scenario
        self._base = self._read()

    def counts(self) -> dict[Direction, LinkCounts]:
        """What became of the packets since play(), also after close().

        Corrupted and reordered packets are not counted. Those that were under way at play() count
        where they are dropped. Raises LinkFailed where the link is dead.
        """
        if self._final is not None:
            return self._final
        self._process.check()
        return self._count()

    def close(self) -> None:
        """End the process and remove all interfaces."""
        if self._final is not None:
            return
        try:
            self._final = self._count()
        finally:
            self._undo.close()

    def _count(self) -> dict[Direction, LinkCounts]:
        readings = self._read()
        return {
            direction: readings[direction].since(
                self._base[direction],
                marks=any(each.ecn for each in _impairments(self._scenario, direction)),
                duplicates=any(each.duplication > 0.0 for each in _impairments(self._scenario, direction)),
            )
            for direction in _DIRECTIONS
        }

    def _read(self) -> dict[Direction, Reading]:
        # In a thread of its own: pyroute2 cannot work in one that runs an event loop.
        return self._chain.namespace.call(_read_all, self._chain)


def start_player(route: socket.socket, places: Mapping[Direction, Interfaces], *, mtu: int) -> LinkProcess:
    """`route` leads to the traffic control of the chain's namespace; the caller closes its own."""
    descriptor = route.fileno()
    return LinkProcess(
        "netem.lab.kernel.player",
        [str(descriptor), str(mtu), json.dumps(places)],
        descriptors=[descriptor],
        answer_limit_s=_ANSWER_LIMIT_S,
    )


def _read_all(chain: Chain) -> dict[Direction, Reading]:
    with IPRoute() as netlink:
        return {
            direction: read_counters(netlink, chain.entry(direction), interfaces)
            for direction, interfaces in chain.places.items()
        }


def check_playable(scenario: Scenario) -> None:
    """Raise ConfigurationError for what the kernel cannot do, whichever kernel it is."""
    for direction in _DIRECTIONS:
        for impairment in _impairments(scenario, direction):
            _check_impairment(scenario, impairment)


def _check_impairment(scenario: Scenario, impairment: Impairment) -> None:
    if impairment.trace is not None:
        raise _not_playable(scenario, "has a trace of deliveries, which tc cannot play")
    if impairment.jitter_correlation:
        raise _not_playable(
            scenario,
            f"has jitter_correlation {impairment.jitter_correlation!r}; tc-netem draws from tables by the "
            "low bits of its correlated numbers, which are independent",
        )
    if delay_table(impairment).jitter_ns > MAX_JITTER_NS:
        raise _not_playable(scenario, "has delays that differ by more than the 17 s of tc-netem")


def _not_playable(scenario: Scenario, reason: str) -> ConfigurationError:
    return ConfigurationError(f"the scenario {scenario.name!r} {reason}; use the `user` backend")


def missing() -> list[str]:
    """What the running kernel lacks, and how to get it; tried out in a namespace of its own."""
    name = namespace_name("kernel", next(_scratch_serials), "scratch")
    try:
        scratch = Namespace.create(name)
    except (OSError, NetlinkError) as error:
        return [f"the kernel backend needs network namespaces ({error}); run as root"]
    try:
        lacks = [*_missing_disciplines(scratch), *_missing_redirection(scratch)]
    except (OSError, NetlinkError) as error:
        return [f"the kernel backend may not set up interfaces ({error}); it needs CAP_NET_ADMIN"]
    finally:
        scratch.delete()
    if not lacks:
        return []
    return [
        f"the kernel backend needs {', '.join(lacks)}, and Linux {platform.release()} does not have all; "
        f"run `modprobe {' '.join(lacks)}`, or boot a kernel that has them (Debian: linux-image-amd64)"
    ]


def _missing_disciplines(scratch: Namespace) -> list[str]:
    """Names of modules that could not be used."""
    lacks = []
    for setting in (Loss(), Hold(), Queue(1, _SCRATCH_BYTES, _SCRATCH_BYTES)):
        with scratch.netlink() as netlink, scratch.call(open_route_socket) as route:
            netlink.link("add", ifname=setting.kind, kind="veth", peer={"ifname": "other"})
            (index,) = netlink.link_lookup(ifname=setting.kind)
            try:
                send_all(route, [qdisc_message(index, setting.kind, setting.options(0), is_new=True)])
            except OSError:
                lacks.append(f"sch_{setting.kind}")
            netlink.link("del", index=index)
    return lacks


def _missing_redirection(scratch: Namespace) -> list[str]:
    with scratch.netlink() as netlink:
        try:
            redirect(netlink, _LOOPBACK, _LOOPBACK)
        except NetlinkError:
            return list(REDIRECTION_MODULES)
    return []


def _new_disciplines(interfaces: Interfaces, mtu: int) -> list[bytes]:
    """The messages that make all disciplines of a direction, without an impairment."""
    initial = settings(Impairment(), None, is_bad=False, mtu=mtu)
    messages = []
    for place in PLACES:
        setting = getattr(initial, place)
        options = setting.options(0)
        messages.append(qdisc_message(interfaces[place], setting.kind, options, is_new=True))
    return messages


def _impairments(scenario: Scenario, direction: Direction) -> list[Impairment]:
    """All that the scenario has for a direction, in order of time."""
    return [scenario.impairment_at(direction, t) for t in (0.0, *(each.at_s for each in scenario.changes))]
