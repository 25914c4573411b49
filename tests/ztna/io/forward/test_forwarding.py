"""Forwarding of a namespace: turned on for the relay, with router advertisements kept, and put back."""

from pathlib import Path

import pytest
from pyroute2 import IPRoute

from tests.support.netns import in_new_namespace
from ztna.io.forward import forwarding
from ztna.io.forward.forwarding import SWITCHES, Forwarding, is_on
from ztna.io.forward.types import ForwardError

pytestmark = pytest.mark.lab


def test_it_is_turned_on_and_put_back_with_router_advertisements_kept() -> None:
    def body() -> None:
        with IPRoute() as netlink:
            netlink.link("add", ifname="x0", kind="veth", peer={"ifname": "x1"})
        accept_ra = Path("/proc/sys/net/ipv6/conf/x0/accept_ra")
        accept_ra.write_text("1")
        subject = Forwarding()
        assert subject.was_off("ipv4")
        assert subject.was_off("ipv6")
        subject.turn_on(("ipv4", "ipv6"))
        assert is_on("ipv4")
        assert is_on("ipv6")
        assert accept_ra.read_text() == "2\n"
        subject.put_back()
        assert not is_on("ipv4")
        assert not is_on("ipv6")
        assert accept_ra.read_text() == "1\n"

    in_new_namespace(body)


def test_what_was_on_stays_on() -> None:
    def body() -> None:
        SWITCHES["ipv4"].write_text("1")
        subject = Forwarding()
        subject.turn_on(("ipv4",))
        subject.put_back()
        assert is_on("ipv4")
        inherited = Forwarding(("ipv4",))
        assert inherited.was_off("ipv4")
        inherited.turn_on(("ipv4",))
        inherited.put_back()
        assert not is_on("ipv4")

    in_new_namespace(body)


def test_where_it_may_not_be_changed_the_reason_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "SWITCHES", {"ipv4": tmp_path / "none" / "ip_forward"})
    with pytest.raises(ForwardError, match=r"ip_forward is 0 and cannot be set .*: set it to 1 on the host"):
        Forwarding().turn_on(("ipv4",))
