"""Which kind of link is behind a cable: as told, or the best that this machine has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eloquent.errors import ConfigurationError
from netem.errors import LabUnavailable
from netem.lab.kernel import wire as kernel
from netem.lab.user import wire as user
from netem.lab.wire import Backend, End, Wire
from netem.scenario import Scenario


def choose_backend(wanted: Backend | None, scenarios: Sequence[Scenario]) -> Backend:
    """The backend to use, `user` where none is wanted and both would do.

    The `user` link plays everything and can be recorded; the kernel's is there to check it, and
    for rates that Python cannot carry. Raises LabUnavailable where the machine lacks what the
    backend needs, ConfigurationError where the kernel cannot play a scenario.
    """
    if wanted not in (None, "user", "kernel"):
        raise ConfigurationError(f"backend is {wanted!r}; it must be 'user' or 'kernel'")
    user_lacks = [] if wanted == "kernel" else user.missing()
    if wanted != "kernel" and not user_lacks:
        return "user"
    kernel_lacks = [] if wanted == "user" else kernel.missing()
    if wanted != "user" and not kernel_lacks:
        for scenario in scenarios:
            kernel.check_playable(scenario)
        return "kernel"
    raise LabUnavailable("; ".join([*user_lacks, *kernel_lacks]))


def open_wire(backend: Backend, client: End, server: End, *, mtu: int, capture: Path | None) -> Wire:
    """Make a cable of that kind."""
    if backend == "user":
        return user.UserWire(client, server, mtu=mtu, capture=capture)
    if capture is not None:
        raise ConfigurationError("only the `user` backend can record packets; leave out one of the two")
    return kernel.KernelWire(client, server, mtu=mtu)
