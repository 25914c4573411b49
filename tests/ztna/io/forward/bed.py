"""A relay's main socket with a back end, on the rig of tests/support/relay_rig.py."""

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable

from tests.support.relay_rig import PORT, Peer, Rig
from ztna.io.forward.choose import Place
from ztna.io.forward.kernel import KernelForwarder
from ztna.io.forward.types import Forwarder, PairCounters
from ztna.io.udp import Datagram, UdpSocket
from ztna.proto.paths.stun_types import Endpoint

Body = Callable[["Relay"], Awaitable[None]]
Run = Callable[..., None]
BACKENDS = ("kernel", "userspace", "workers")
SESSION = b"s" * 16
SWITCHES = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")


class Relay:
    """A main socket with a back end, on the running loop, and what came to the main handler."""

    def __init__(self, backend: str, host: str = "0.0.0.0") -> None:
        loop = asyncio.get_running_loop()
        self.local: list[tuple[bytes, tuple[str, int]]] = []
        self.main = UdpSocket(host, PORT)
        self.main.start(loop, self._on_batch)
        self.place = Place(
            host=host, port=PORT, main_fd=self.main.fileno(), on_local=self.on_local,
            loop=loop, clock=time.monotonic, workers=2 if backend == "workers" else 0,
        )  # fmt: skip
        self.forwarder: Forwarder = self._make(backend)

    def _make(self, backend: str) -> Forwarder:
        if backend == "kernel":
            return KernelForwarder(self.place.host, PORT, clock=time.monotonic)
        return self.place.userspace()

    def _on_batch(self, batch: list[Datagram]) -> None:
        self.local += batch

    def on_local(self, data: bytes, source: Endpoint) -> None:
        self.local.append((data, source))

    def pair(self, left: Peer, right: Peer, session: bytes = SESSION) -> None:
        self.forwarder.install(session, Endpoint(*left.address), Endpoint(*right.address))

    async def counted(self, *wanted: int, session: bytes = SESSION) -> PairCounters:
        """The counters, once they are as wanted: workers report them a moment later."""
        for _ in range(200):
            seen = self.forwarder.counters()[session]
            if seen == PairCounters(*wanted):
                break
            await asyncio.sleep(0.025)
        return seen

    async def counted_bytes(self, total: int) -> PairCounters:
        """The counters, once so many bytes were forwarded each way."""
        for _ in range(200):
            seen = self.forwarder.counters()[SESSION]
            if seen.a_bytes == seen.b_bytes == total:
                break
            await asyncio.sleep(0.025)
        return seen

    async def came_locally(self, count: int) -> list[bytes]:
        for _ in range(500):
            if len(self.local) >= count:
                break
            await asyncio.sleep(0.01)
        return [data for data, _ in self.local]

    def close(self) -> None:
        self.forwarder.close()
        self.main.close()


def run_on(rig: Rig, backend: str, body: "Body", host: str = "0.0.0.0") -> None:
    """Run a body with a relay of one back end, and look that nothing of it stays."""

    async def whole() -> None:
        relay = Relay(backend, host)
        try:
            await body(relay)
        finally:
            relay.close()

    rig.in_relay(whole)
    assert rig.relay.run(left_behind) == []


def left_behind() -> list[str]:
    """What a relay could leave in the namespace of the calling thread."""
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.split("\n")
    found = [line for line in tables if line]
    for path in ("udp", "udp6"):
        with open(f"/proc/thread-self/net/{path}") as lines:
            found += [line for line in lines if f":{PORT:04X} " in line]
    for switch in SWITCHES:
        with open(switch) as file:
            if file.read().strip() != "0":
                found.append(switch)
    return found


def packet(number: int, size: int = 100) -> bytes:
    """Looks like QUIC by its first byte, and no two are alike."""
    return (bytes([0x40 | number & 0x3F]) + number.to_bytes(4, "big") + os.urandom(size))[:size]


STUN = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)


def nft(*lines: str) -> None:
    """Change the rules of the namespace of the calling thread."""
    subprocess.run(["nft", "-f", "-"], input="\n".join(lines), text=True, check=True)
