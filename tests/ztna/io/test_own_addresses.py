"""This host's addresses, as ip(8) sees them."""

import asyncio
import json
import subprocess

import pytest

from tests.support.netns import in_new_namespace
from ztna.io.own_addresses import own_addresses


def listed() -> set[str]:
    shown = subprocess.run(["ip", "-j", "address"], capture_output=True, text=True, check=True).stdout
    return {entry["local"] for link in json.loads(shown) for entry in link.get("addr_info", ())}


def test_they_are_those_of_ip() -> None:
    assert own_addresses() == listed()
    assert "127.0.0.1" in own_addresses()


async def test_on_a_running_loop() -> None:
    assert own_addresses() == await asyncio.to_thread(listed)


@pytest.mark.lab
def test_a_thousand_of_both_families() -> None:
    def body() -> None:
        lines = [f"address add 10.{number >> 8}.{number & 255}.1/32 dev lo" for number in range(500)]
        lines += [f"address add fd00::{number:x}/128 dev lo" for number in range(1, 501)]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
        found = own_addresses()
        assert found == listed()
        assert len(found) >= 1001

    in_new_namespace(body)
