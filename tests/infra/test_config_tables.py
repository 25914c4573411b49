"""The table of each stack's keys, and that the committed configuration has no other ones."""

from pathlib import Path

import pytest
import yaml

from infra.config_overlay import OVERLAY_KEYS
from infra.config_tables import CONFIG_KEYS, TABLES
from stacks.__main__ import STACKS

ROOT = Path(__file__).parents[2]


def test_every_stack_has_a_table() -> None:
    assert list(CONFIG_KEYS) == list(TABLES) == list(STACKS)
    assert len(CONFIG_KEYS) == 4
    assert CONFIG_KEYS.get("moon") is None


@pytest.mark.parametrize("stack", TABLES)
def test_a_name_occurs_once_and_cloud_stacks_share_their_keys(stack: str) -> None:
    names = [key.name for key in CONFIG_KEYS[stack]]
    assert len(names) == len(set(names))
    if stack != "lab":
        assert set(OVERLAY_KEYS) <= set(CONFIG_KEYS[stack])


@pytest.mark.parametrize("stack", TABLES)
def test_the_committed_configuration_has_every_required_key_and_no_unknown_one(stack: str) -> None:
    document = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text())
    given = {name.removeprefix(f"{stack}:") for name in document["config"] if name.startswith(f"{stack}:")}
    known = {key.name: key for key in CONFIG_KEYS[stack]}
    assert given <= known.keys()
    assert {name for name, key in known.items() if key.default is None} <= given
