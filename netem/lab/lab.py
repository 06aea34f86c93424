"""Hosts joined by cables: set up, played and torn down."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from pyroute2.netlink.exceptions import NetlinkError

from eloquent.errors import ConfigurationError, UsageError
from netem.errors import LabUnavailable
from netem.lab import teardown
from netem.lab.backends import choose_backend, open_wire
from netem.lab.cable import Cable, attachments_of, hosts_of, interface_of
from netem.lab.cross_traffic import BulkTransfer
from netem.lab.host import Host
from netem.lab.namespace import Namespace, namespace_name
from netem.lab.network import configure
from netem.lab.privilege import become_root
from netem.lab.wire import Backend, End, Wire
from netem.link import LinkCounts
from netem.scenario import Direction, Scenario

_serials = count()


class Lab:
    """Two or more hosts, joined by cables; use it as an async context manager.

    A Scenario alone means one cable from the host `client` to the host `server`. Hosts with more
    than one cable pass packets on between them. `backend` is chosen when left out. `name` shows in
    the names of the namespaces. `capture` is a file to which both sides of the first cable are
    written, with the fate of every packet (pcapng; `user` backend only).

    The scenarios begin on entry; play() begins them anew. Raises ConfigurationError for what
    cannot be built on any machine, LabUnavailable for what cannot be built on this one.
    """

    def __init__(
        self,
        cables: Scenario | Sequence[Cable],
        *,
        seed: int = 0,
        backend: Backend | None = None,
        name: str = "lab",
        capture: Path | None = None,
    ) -> None:
        self._cables = (Cable(cables),) if isinstance(cables, Scenario) else tuple(cables)
        if not self._cables:
            raise ConfigurationError("a laboratory needs at least one cable")
        self._attachments = attachments_of(self._cables)
        self._seed = seed
        self._wanted_backend = backend
        self._backend: Backend | None = None
        self._name = name
        self._capture = capture
        self._hosts: dict[str, Host] = {}
        self._wires: list[Wire] = []
        self._cross_traffic: list[BulkTransfer] = []
        self._undos: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._is_entered = self._is_closed = False

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise UsageError("a laboratory is built once; make another Lab")
        self._is_entered = True
        become_root()
        teardown.add(self._tear_down)
        try:
            await asyncio.to_thread(self._set_up)
            await self.play(seed=self._seed)
        except BaseException:
            self._tear_down()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Not in a thread: a second cancellation must not cut it short.
        try:
            self._tear_down()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"while the laboratory was torn down: {failure!r}")

    @property
    def backend(self) -> Backend:
        """The kind of link that is in use; raises UsageError outside of the block."""
        if self._backend is None:
            raise UsageError("the laboratory has no backend outside of its 'async with' block")
        return self._backend

    def host(self, name: str) -> Host:
        """The host with this name; raises UsageError where there is none, or not now."""
        try:
            return self._hosts[name]
        except KeyError:
            there_are = ", ".join(self._hosts) or "none outside of the 'async with' block"
            raise UsageError(f"no host is named {name!r}; there are: {there_are}") from None

    async def play(self, *, seed: int, scenario: Scenario | None = None, delay: float = 0.0) -> float:
        """Begin all scenarios anew, or `scenario` on every cable, after `delay` seconds.

        Returns when that is, on time.monotonic(). Counts start anew at once. Raises UsageError
        outside of the block.
        """
        if not self._hosts:
            raise UsageError("a laboratory plays nothing outside of its 'async with' block")
        self._end_cross_traffic()
        begins_at = time.monotonic() + delay
        scenarios = [scenario or cable.scenario for cable in self._cables]
        await asyncio.to_thread(self._play, scenarios, seed, begins_at)
        for cable, played in zip(self._cables, scenarios, strict=True):
            client, server = (self.host(name) for name in cable.hosts)
            for traffic in played.cross_traffic:
                self._cross_traffic.append(BulkTransfer(traffic, client, server, begins_at=begins_at))
        return begins_at

    def counts(self, cable: int = 0) -> dict[Direction, LinkCounts]:
        """What became of the packets on a cable since the last play(), also after the block."""
        return self._wires[cable].counts()

    def _set_up(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._backend = choose_backend(self._wanted_backend, [cable.scenario for cable in self._cables])
            self._make_hosts()
            for index, cable in enumerate(self._cables):
                self._wires.append(self._open_wire(index, cable))
            configure(self._hosts)

    def _make_hosts(self) -> None:
        serial = next(_serials)
        for name in hosts_of(self._cables):
            try:
                namespace = Namespace.create(namespace_name(self._name, serial, name))
            except (OSError, NetlinkError) as error:
                raise LabUnavailable(f"this process cannot make network namespaces ({error})") from error
            self._undos.append(namespace.delete)
            self._hosts[name] = Host(name, namespace, self._attachments[name])

    def _play(self, scenarios: Sequence[Scenario], seed: int, begins_at: float) -> None:
        with self._lock:
            if not self._is_closed:
                for wire, scenario in zip(self._wires, scenarios, strict=True):
                    wire.play(scenario, seed=seed, begins_at=begins_at)

    def _open_wire(self, index: int, cable: Cable) -> Wire:
        client, server = (End(self._hosts[name].namespace, interface_of(index)) for name in cable.hosts)
        capture = self._capture if index == 0 else None
        wire = open_wire(self.backend, client, server, mtu=cable.mtu, capture=capture)
        self._undos.append(wire.close)
        return wire

    def _end_cross_traffic(self) -> None:
        while self._cross_traffic:
            self._cross_traffic.pop().close()

    def _tear_down(self) -> None:
        """Undo what was set up, last first; one that fails does not keep the others from it."""
        errors: list[Exception] = []
        # The thread that sets up cannot be interrupted: what it makes is removed when it is done.
        with teardown.uninterrupted(), self._lock:
            self._is_closed = True
            self._end_cross_traffic()
            while self._undos:
                try:
                    self._undos[-1]()
                except Exception as error:
                    errors.append(error)
                self._undos.pop()
            self._hosts.clear()
            self._backend = None
        teardown.remove(self._tear_down)
        if errors:
            raise errors[0]
