"""Names of configured hosts, looked up in the background so that the packet path never waits for a resolver."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

RESOLVE_EVERY_S: Final = 30.0


class BackendNames:
    """Addresses of the configured backends; names are looked up in the background, never on the packet path."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._addresses = {host: host for host in hosts if is_literal(host)}
        self._names = sorted({host for host in hosts if not is_literal(host)})
        self._task: asyncio.Task[None] | None = None

    def address(self, host: str) -> str | None:
        """The IP address text of a backend host, None while its name does not resolve."""
        return self._addresses.get(host)

    async def start(self) -> None:
        """Resolve all names once, then again every 30 s; the last good answer stays in force."""
        if self._names:
            await self._resolve_all()
            self._task = asyncio.get_running_loop().create_task(self._refresh())

    async def close(self) -> None:
        """Stop refreshing."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(RESOLVE_EVERY_S)
            await self._resolve_all()

    async def _resolve_all(self) -> None:
        loop = asyncio.get_running_loop()
        for name in self._names:
            with contextlib.suppress(OSError):
                self._addresses[name] = await resolve(loop, name)


def address_family(address: str) -> socket.AddressFamily:
    """The address family of an IP address text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


async def resolve(loop: asyncio.AbstractEventLoop, host: str) -> str:
    """An IPv4 address of a host name; raises OSError."""
    found = await loop.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    return str(found[0][4][0])


def is_literal(host: str) -> bool:
    """Whether a host is given by its address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
