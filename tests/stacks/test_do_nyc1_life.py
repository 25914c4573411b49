"""do-nyc1 through its life under the embedded engine: up, changed, replaced, removed; the account is a stand-in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.engine.operation import Adapters
from infra.engine.workspace import Workspace
from tests.support.do_provider import Cloud
from tests.support.fake_do import FakeDo
from tests.support.project import link_project

STACK = "do-nyc1"
USER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPDaSPD9Lr8ZqNw4XBHYhSsDzZqGYCqyvXpiYOHuCu3J me"

pytestmark = pytest.mark.engine


class Life:
    """A project with the stack, whose configuration changes."""

    def __init__(self, directory: Path, cloud: Cloud) -> None:
        self._directory, self.cloud = link_project(directory), cloud

    def up(self, **config: Any) -> dict[str, int]:
        """Bring it to this configuration; the calls before are forgotten. Returns the changes."""
        settings = {"adminCidrs": ["203.0.113.0/24"]} | config
        document = {"config": {f"{STACK}:{key}": value for key, value in settings.items()}}
        (self._directory / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump(document))
        self.cloud.calls.clear()
        return self._workspace().up().changes

    def destroy(self) -> None:
        """Remove everything."""
        self.cloud.calls.clear()
        self._workspace().destroy()

    def _workspace(self) -> Workspace:
        return Workspace(
            self._directory,
            STACK,
            engine="embedded",
            adapters=Adapters(start_plugin=lambda host, package: self.cloud.start(host, package)),
        )


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "test")
    with FakeDo(ssh_hosts=("192.0.2.10", "192.0.2.11")) as fake:
        yield Life(tmp_path / "project", Cloud(fake))


def test_from_nothing_to_serving_and_back_to_nothing(life: Life) -> None:
    life.up()
    world = life.cloud.fake.world
    (droplet,) = world.droplets.values()
    ((address, owner),) = world.reserved.items()
    assert owner == str(droplet["id"])
    assert life.cloud.order(
        ("create", "relay-droplet-1"),
        ("create", "firewall-rules"),
        ("create", "host-1-release"),
        ("create", "cutover-assignment"),
    )
    assert life.up().keys() == {"same"}, "nothing to do"
    assert life.cloud.calls == []
    life.destroy()
    assert (world.droplets, world.reserved, world.firewalls, world.vpcs, world.keys) == ({}, {}, {}, {}, {})
    assert address


def test_administrators_first_boot_and_image_change_without_touching_the_droplet(life: Life) -> None:
    life.up()
    (before,) = life.cloud.fake.world.droplets
    life.up(adminCidrs=["198.51.100.7/32"], sshPublicKey=USER_KEY, image="debian-12-x64")
    assert life.cloud.calls == [("update", "firewall-rules")]
    assert list(life.cloud.fake.world.droplets) == [before]
    (firewall,) = life.cloud.fake.world.firewalls.values()
    assert firewall["inbound_rules"][2]["sources"] == {"addresses": ["198.51.100.7/32"]}


def test_a_replaced_droplet_gets_the_address_once_it_serves_and_with_present_first_boot(life: Life) -> None:
    life.up()
    world = life.cloud.fake.world
    ((address, first),) = world.reserved.items()
    life.up(hostGeneration=2, sshPublicKey=USER_KEY)
    ((kept, second),) = world.reserved.items()
    assert kept == address
    assert list(world.droplets) == [second]
    assert life.cloud.owners == [None, first, second], "the address was never without a droplet in between"
    assert life.cloud.order(
        ("create", "relay-droplet-2"),
        ("update", "firewall-rules"),
        ("create", "host-2-release"),
        ("create", "cutover-assignment"),
        ("delete", "cutover-assignment"),
        ("delete", "host-1-release"),
        ("delete", "relay-droplet-1"),
    )
    assert USER_KEY in world.user_data[str(second)]
    assert USER_KEY not in world.user_data[str(first)]
    assert life.up(hostGeneration=2, sshPublicKey=USER_KEY).keys() == {"same"}
    life.destroy()
    assert (world.droplets, world.reserved) == ({}, {})


def test_a_successor_that_does_not_serve_never_gets_the_address(life: Life) -> None:
    life.up()
    world = life.cloud.fake.world
    ((_, first),) = world.reserved.items()
    life.cloud.failing["create", "host-2-release"] = "not healthy"
    with pytest.raises(Exception, match="failed"):
        life.up(hostGeneration=2)
    assert list(world.reserved.values()) == [first]
    assert first in world.droplets, "and the old one serves on"
    life.cloud.failing.clear()
    life.up(hostGeneration=2)
    assert list(world.droplets) == list(world.reserved.values()) != [first]
