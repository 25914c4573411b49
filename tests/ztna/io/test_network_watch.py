import asyncio

import pytest

from tests.support.overlay import eventually
from ztna.io import network_watch
from ztna.io.network_watch import Fingerprint, NetworkWatch, fingerprint

HOME: Fingerprint = (("192.0.2.10",), ("192.0.2.10", None))
CAFE: Fingerprint = (("198.51.100.7",), ("198.51.100.7", None))


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> list[Fingerprint]:
    """Where the host is: the last entry."""
    places = [HOME]
    monkeypatch.setattr(network_watch, "fingerprint", lambda: places[-1])
    return places


async def test_a_change_is_told_once_however_many_messages_belong_to_it(place: list[Fingerprint]) -> None:
    told: list[int] = []
    watch = NetworkWatch(asyncio.get_running_loop(), lambda: told.append(1))
    watch.start()
    place.append(CAFE)
    for _ in range(5):
        watch._readable()
    await eventually(lambda: told)
    watch._readable()
    await asyncio.sleep(2 * network_watch.SETTLE_S)
    assert (told, watch.changes) == ([1], 1), "nothing has changed since"
    place.append(HOME)
    watch._readable()
    await eventually(lambda: len(told) == 2)
    watch.close()


async def test_without_netlink_it_looks_by_itself(place: list[Fingerprint], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no netlink here")

    monkeypatch.setattr(network_watch, "POLL_S", 0.01)
    monkeypatch.setattr("ztna.io.network_watch.socket.socket", refuse)
    told: list[int] = []
    watch = NetworkWatch(asyncio.get_running_loop(), lambda: told.append(1))
    watch.start()
    place.append(CAFE)
    await eventually(lambda: told)
    watch.close()


def test_the_fingerprint_of_this_host_is_the_same_twice() -> None:
    assert fingerprint() == fingerprint()
