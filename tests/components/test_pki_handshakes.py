"""The roles themselves, with certificates of each state of a rotation: real handshakes, and traffic through them."""

from pathlib import Path
from typing import Any

import pulumi
import pytest

from components.pki import Pki, PkiArgs
from infra.config import PkiSettings
from infra.overlay import PkiMembers
from tests.support.fake_tls import FakeTls
from tests.support.overlay import ECHO, HTTP, Overlay, eventually, udp_client
from tests.support.pulumi_mocks import record

STEPS = (
    PkiSettings(),
    PkiSettings(generation=2, overlap="agents"),
    PkiSettings(generation=2, overlap="all"),
    PkiSettings(generation=2),
)
MEMBERS = ("relay", "connector", "agent")


@pytest.fixture(scope="module")
def states() -> list[dict[str, dict[str, str]]]:
    """Inline PEMs of each member in each state, as its configuration takes them."""
    provider = FakeTls()
    return [deploy(settings, provider) for settings in STEPS]


def deploy(settings: PkiSettings, provider: FakeTls) -> dict[str, dict[str, str]]:
    """Return the members' PEMs under one setting."""
    args = PkiArgs(
        stack="lab",
        settings=settings,
        relay_name="relay",
        server_name="ztna-server",
        addresses=["127.0.0.1"],
        members=PkiMembers(connectors={"connector": (ECHO, HTTP)}, agents={"agent": (ECHO, HTTP)}),
    )

    def program() -> Any:
        made = Pki("pki", args)
        return pulumi.Output.all(**{member: made.files(member) for member in MEMBERS})

    files = record(program, computed=provider.computed)[1]
    return {
        member: {"cert_pem": pems["cert.pem"], "key_pem": pems["key.pem"], "ca_cert_pem": pems["ca.pem"]}
        for member, pems in files.items()
    }


@pytest.mark.parametrize(
    ("relay", "connector", "agent"),
    [
        pytest.param(0, 0, 0, id="one-generation"),
        pytest.param(1, 0, 0, id="first-change-half-done"),
        pytest.param(1, 1, 0, id="an-old-profile-after-the-first-change"),
        pytest.param(1, 1, 1, id="a-new-profile-after-the-first-change"),
        pytest.param(2, 1, 1, id="second-change-half-done"),
        pytest.param(3, 2, 1, id="third-change-half-done"),
        pytest.param(3, 3, 1, id="the-profile-of-the-first-change-at-the-end"),
    ],
)
async def test_traffic_passes_in_every_state_of_a_rotation(
    relay: int, connector: int, agent: int, states: list[dict[str, dict[str, str]]], tmp_path: Path
) -> None:
    overlay = Overlay(
        tmp_path,
        intermediate=states[relay]["relay"],
        connector=states[connector]["connector"],
        agent=states[agent]["agent"],
    )
    async with overlay as running:
        with udp_client(running.forward("udp")) as client:  # its address is known once the overlay runs
            assert await client.echo(b"hello") == b"hello"


async def test_a_profile_that_missed_the_rotation_is_shut_out(
    states: list[dict[str, dict[str, str]]], tmp_path: Path
) -> None:
    overlay = Overlay(
        tmp_path, intermediate=states[3]["relay"], connector=states[3]["connector"], agent=states[0]["agent"]
    )
    await overlay.backends.start()
    try:
        await overlay.start_relay()
        await overlay.start_connector()
        await overlay.start_agent(ready=False)
        await eventually(lambda: "unable to get local issuer certificate" in str(overlay.agent.not_ready()))
    finally:
        await overlay.__aexit__(None, None, None)
