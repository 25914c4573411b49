"""The tables of every type: each property in one of them, real, and docs/twin.md shows what they say."""

import sys

import pytest

from infra.engine.sdkschema import find_sdk
from infra.twin import catalogue, world
from infra.twin.interface import TwinType
from infra.twin.packages import MODULES, package
from infra.twin.stacks import STACKS
from tests.docs.pages import ROOT

TYPES = [(name, kind) for name in MODULES for kind in package(name).types]
PAGE = (ROOT / "docs" / "twin.md").read_text()


def of_name(value: object) -> str:
    """The id of a parameter."""
    return value.type_name if isinstance(value, TwinType) else str(value)


@pytest.mark.parametrize(("name", "kind"), TYPES, ids=of_name)
def test_a_property_is_in_one_table_and_the_sdk_has_it(name: str, kind: TwinType) -> None:
    # One without effect may replace the resource all the same, as it does in the cloud.
    assert not kind.in_place & (kind.force_new | set(kind.left_out)), "a property stands in two tables"
    assert kind.model
    assert set(kind.defaults) <= kind.properties()
    assert not kind.autoname or kind.autoname in kind.properties()
    if name == "kubernetes":
        return  # Its objects share their tables and are held against the API's own schema; some have no class.
    sdk = find_sdk(name, sys.executable)
    assert sdk is not None
    arguments = sdk.arguments(kind.type_name)
    assert arguments is not None
    assert kind.properties() <= set(arguments.fields)
    assert set(kind.secret_outputs) <= set(sdk.outputs(kind.type_name))


@pytest.mark.parametrize(("name", "kind"), TYPES, ids=of_name)
def test_a_type_without_update_is_replaced_by_every_change(name: str, kind: TwinType) -> None:
    if type(kind).update is TwinType.update:
        assert kind.properties() == kind.force_new
        assert kind.replaces(kind.properties(), {}, {}) == kind.properties()


def test_some_types_have_no_update() -> None:
    without = {kind.type_name.rpartition(":")[2] for _, kind in TYPES if type(kind).update is TwinType.update}
    assert without == {"ReservedIpAssignment", "PrivateKey", "CertRequest"}


def test_the_page_shows_the_tables() -> None:
    assert catalogue.markdown() in PAGE, "run python -m infra.twin.catalogue and put its output into docs/twin.md"


def test_the_page_shows_the_world_and_the_twins_own_configuration() -> None:
    for client in world.CLIENTS:
        address = client.core if client.preset != "public" else client.host_address
        assert f"| `{client.name}` | {address} | {client.preset} | {client.one_way_ms:g} ms |" in PAGE
    for region in world.REGIONS:
        assert f"| region `{region.name}` | {region.public} |" in PAGE
    for stack, own in STACKS.items():
        for key, (value, why) in own.config.items():
            assert f"| `{stack}` | `{key}` | `{value}` | {why} |" in PAGE


def test_limits_are_told_of_the_types_that_are_used() -> None:
    told = catalogue.limits_of(["digitalocean:index/vpc:Vpc", "x:y:Z", "digitalocean:index/vpc:Vpc"])
    assert told == ["Vpc: firewalls do not filter between droplets of one VPC"]
