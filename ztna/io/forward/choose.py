"""Which back end forwards: the kernel's where it can, user space otherwise, and why."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ztna.io.forward.kernel import KernelForwarder
from ztna.io.forward.ruleset import table_name
from ztna.io.forward.tables import clear_up
from ztna.io.forward.types import Forwarder, ForwardError, LocalDatagram, PairCounters
from ztna.io.forward.userspace import UserspaceForwarder
from ztna.io.forward.workers import WorkerForwarder
from ztna.proto.paths.stun_types import Endpoint

__all__ = ["MODES", "Mode", "Place", "choose"]

Mode = Literal["auto", "kernel", "userspace", "off"]
MODES: Final = ("auto", "kernel", "userspace", "off")
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The main socket that forwarding shares its address with, and who hears of what else comes there.

    Args:
        host, port: what it is bound to.
        main_fd: its descriptor, which stays the caller's.
        on_local: takes datagrams that are not forwarded, with their source; it must not raise.
        workers: processes for the user-space back end, 0 for the caller's own loop.
    """

    host: str
    port: int
    main_fd: int
    on_local: LocalDatagram
    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]
    workers: int = 0

    def userspace(self) -> Forwarder:
        """The user-space back end.

        Raises:
            ForwardError: its workers cannot be started.
        """
        if not self.workers:
            return UserspaceForwarder(self.host, self.port, self.main_fd, loop=self.loop, on_local=self.on_local)
        return WorkerForwarder(
            self.host, self.port, self.main_fd, count=self.workers, loop=self.loop, on_local=self.on_local,
            clock=self.clock,
        )  # fmt: skip


def choose(mode: Mode, place: Place, report: Report) -> Forwarder | None:
    """Return the back end for a mode, None for "off"; what a dead relay left behind is removed in any case.

    Args:
        report: hears why the kernel's is not used, in words for the log.

    Raises:
        ForwardError: mode "kernel", and the kernel's back end is not possible; or workers that cannot be started.
    """
    if mode in ("auto", "kernel"):
        try:
            return KernelFirst(KernelForwarder(place.host, place.port, clock=place.clock), place, report)
        except ForwardError as exc:
            if mode == "kernel":
                raise
            report(str(exc))
    clear_up(table_name(place.host, place.port))
    return None if mode == "off" else place.userspace()


class KernelFirst:
    """The kernel's back end, with user space for pairs that it cannot take, and for all should it cease to work.

    Pairs it cannot take are those of an IPv4 and an IPv6 side, and sides on this very host.
    """

    def __init__(self, kernel: KernelForwarder, place: Place, report: Report) -> None:
        self._kernel: KernelForwarder | None = kernel
        self._place = place
        self._report = report
        self._userspace: Forwarder | None = None
        self._pairs: dict[bytes, tuple[Endpoint, Endpoint]] = {}

    @property
    def name(self) -> str:
        """The back end of most pairs."""
        return "userspace" if self._kernel is None else "kernel"

    def backend_of(self, session: bytes) -> str:
        """The back end of one session."""
        in_kernel = self._kernel is not None and session in self._kernel
        return "kernel" if in_kernel else "userspace"

    def install(self, session: bytes, a: Endpoint, b: Endpoint) -> None:
        """Forward between `a` and `b`; replaces the session's earlier pair.

        Raises:
            ForwardError: neither back end can.
        """
        self._pairs[session] = a, b
        if self._kernel is not None:
            try:
                self._kernel.install(session, a, b)
            except ForwardError:
                pass
            else:
                if self._userspace is not None:
                    self._userspace.remove(session)
                return
        try:
            self._second().install(session, a, b)
        except ForwardError:
            del self._pairs[session]
            raise

    def _second(self) -> Forwarder:
        if self._userspace is None:
            self._userspace = self._place.userspace()
        return self._userspace

    def remove(self, session: bytes) -> PairCounters | None:
        """Stop forwarding for the session; what it forwarded, None if there is no such session."""
        self._pairs.pop(session, None)
        removed = [backend.remove(session) for backend in self._backends()]
        return next((seen for seen in removed if seen is not None), None)

    def counters(self) -> Mapping[bytes, PairCounters]:
        """What was forwarded of each installed session; a change of back end begins anew."""
        found: dict[bytes, PairCounters] = {}
        for backend in self._backends():
            found |= backend.counters()
        return found

    def drops(self) -> Mapping[str, int]:
        """Packets not forwarded, by reason, where user space does it."""
        return {} if self._userspace is None else self._userspace.drops()

    def tick(self) -> str | None:
        """Renew; take everything to user space when the kernel's does not work."""
        if self._kernel is not None:
            problem = self._kernel.tick()
            if problem is not None:
                self._leave_kernel(problem)
        return None if self._userspace is None else self._userspace.tick()

    def _leave_kernel(self, problem: str) -> None:
        self._report(problem)
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            kernel.close()
        for session, (a, b) in list(self._pairs.items()):
            try:
                self._second().install(session, a, b)
            except ForwardError as exc:
                self._report(f"a session is not relayed any more: {exc}")
                del self._pairs[session]

    def close(self, *, leave: bool = False) -> None:
        """Remove everything, or leave what goes on without this process; idempotent."""
        for backend in self._backends():
            backend.close(leave=leave)

    def _backends(self) -> list[Forwarder]:
        return [backend for backend in (self._kernel, self._userspace) if backend is not None]
