"""Routes of single addresses against the kernel, from within a running event loop."""

import asyncio
import errno
import subprocess

import pytest

from tests.support.netns import in_new_namespace
from ztna.io import routes
from ztna.io.tun import TunDevice

pytestmark = [pytest.mark.lab, pytest.mark.tun]


def shown() -> list[str]:
    done = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True)
    return [line.strip() for line in done.stdout.splitlines()]


def test_a_route_is_added_changed_and_removed() -> None:
    def body() -> None:
        device = TunDevice("tr%d", ["100.64.0.100", "100.64.0.101"], [], 1500)

        async def change() -> None:
            routes.add_route("100.64.1.1", device.index)
            assert shown() == ["100.64.1.1 dev tr0 proto static scope link"]
            with pytest.raises(OSError, match="exists") as refused:
                routes.add_route("100.64.1.1", device.index)
            assert refused.value.errno == errno.EEXIST
            routes.set_route("100.64.1.1", device.index, mtu_bytes=1300, source="127.0.0.1")
            assert shown() == ["100.64.1.1 dev tr0 proto static scope link src 127.0.0.1 mtu 1300"]
            routes.set_route("100.64.1.1", device.index, mtu_bytes=None, source=None)
            assert shown() == ["100.64.1.1 dev tr0 proto static scope link"]
            routes.remove_route("100.64.1.1", device.index)
            assert shown() == []
            with pytest.raises(OSError, match="No such process"):
                routes.remove_route("100.64.1.1", device.index)

        asyncio.run(change())
        device.close()

    in_new_namespace(body)
