"""A relay's host between two others, each a network namespace without a name: gone with the process or by `close`.

    left 10.77.1.2, fd77:1::2 -- relay 10.77.1.1 | 10.77.2.1 -- right 10.77.2.2, fd77:2::2

Sockets stay in the namespace they were opened in, so one thread can drive all three.
"""

import asyncio
import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from pyroute2 import IPRoute

from tests.support.netns import enter_new_namespace
from ztna.io.udp import UDP_SEGMENT

T = TypeVar("T")
PORT = 4433
HOSTS = {"left": ("10.77.1.2", "fd77:1::2"), "right": ("10.77.2.2", "fd77:2::2")}
RELAY = {"left": ("10.77.1.1", "fd77:1::1"), "right": ("10.77.2.1", "fd77:2::1")}


class Namespace:
    """A network namespace with a thread in it that runs what it is given."""

    def __init__(self) -> None:
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self.fd: int = self.run(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def run(self, body: Callable[[], T]) -> T:
        """Call `body` in the namespace; its result or exception is passed on."""
        done = threading.Event()
        result: list[T] = []
        failure: list[BaseException] = []

        def task() -> None:
            try:
                if not hasattr(self, "fd"):
                    enter_new_namespace()
                result.append(body())
            except BaseException as exc:
                failure.append(exc)
            finally:
                done.set()

        self._tasks.put(task)
        done.wait()
        if failure:
            raise failure[0]
        return result[0]

    def close(self) -> None:
        self._tasks.put(None)
        self._thread.join()
        os.close(self.fd)


class Rig:
    """The three hosts, cabled."""

    def __init__(self) -> None:
        self.relay, self.left, self.right = Namespace(), Namespace(), Namespace()
        self.sockets: list[socket.socket] = []
        for name in HOSTS:
            self.relay.run(lambda name=name: self._cable(name))  # type: ignore[misc]
            self.host(name).run(lambda name=name: self._set_up(name))  # type: ignore[misc]

    def host(self, name: str) -> Namespace:
        return self.left if name == "left" else self.right

    def _cable(self, name: str) -> None:
        with IPRoute() as netlink:
            peer = {"ifname": "eth0", "net_ns_fd": self.host(name).fd}
            netlink.link("add", ifname=name, kind="veth", peer=peer)
            _address(netlink, name, *RELAY[name])

    @staticmethod
    def _set_up(name: str) -> None:
        with IPRoute() as netlink:
            _address(netlink, "eth0", *HOSTS[name])

    def socket(self, name: str, port: int = 0, *, v6: bool = False) -> "Peer":
        """A socket of a host that talks to the relay."""
        host = HOSTS[name][v6]

        def opened() -> socket.socket:
            sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((host, port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.setblocking(False)
            return sock

        sock = self.host(name).run(opened)
        self.sockets.append(sock)
        return Peer(sock, (RELAY[name][v6], PORT))

    def in_relay(self, body: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on an event loop of the relay's host."""
        return self.relay.run(lambda: asyncio.run(body()))

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        for place in (self.relay, self.left, self.right):
            place.close()


class Peer:
    """One side's socket, and the relay's address as this side knows it."""

    def __init__(self, sock: socket.socket, relay: tuple[str, int]) -> None:
        self.sock, self.relay = sock, relay
        self.address: tuple[str, int] = sock.getsockname()[:2]

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.sock.sendto(packet, self.relay)

    def send_joined(self, packets: list[bytes]) -> None:
        """Equal packets (the last may be shorter) in one call with UDP_SEGMENT."""
        size = len(packets[0]).to_bytes(2, "little")
        self.sock.sendmsg([b"".join(packets)], [(socket.IPPROTO_UDP, UDP_SEGMENT, size)], 0, self.relay)

    async def receive(self, count: int = 1, timeout_s: float = 15.0) -> list[bytes]:
        """Wait for so many datagrams, all from the relay's address; fewer when the time is over."""
        found: list[bytes] = []
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while len(found) < count:
                    data, source = await loop.sock_recvfrom(self.sock, 65535)
                    assert source[:2] == self.relay
                    found.append(data)
        return found

    async def silence(self, timeout_s: float = 0.15) -> bool:
        """Whether nothing more comes."""
        return await self.receive(1, timeout_s) == []


@contextlib.contextmanager
def relay_rig() -> Iterator[Rig]:
    """A rig for the body."""
    rig = Rig()
    try:
        yield rig
    finally:
        rig.close()


def _address(netlink: IPRoute, name: str, v4: str, v6: str) -> None:
    index = netlink.link_lookup(ifname=name)[0]
    netlink.addr("add", index=index, address=v4, prefixlen=24)
    # IFA_F_NODAD: usable at once, there is nobody to have a duplicate.
    netlink.addr("add", index=index, address=v6, prefixlen=64, flags=0x02)
    netlink.link("set", index=index, state="up")
