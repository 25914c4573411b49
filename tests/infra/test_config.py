"""Configuration: what is read, and what a missing or bad key makes the user see."""

from dataclasses import dataclass, field

import pytest

from infra.config import (
    LAB_KEYS,
    ConfigError,
    ImpairmentSettings,
    LabConfig,
    LinkSettings,
    NatSettings,
    lab_config,
    parse_link,
)

PRESETS = ("port-restricted", "symmetric", "udp-blocked")


@dataclass
class Source:
    """A namespace of configuration, as `pulumi.Config` gives it."""

    values: dict[str, str] = field(default_factory=dict)
    name: str = "lab"

    def get(self, key: str) -> str | None:
        """Return the text of a key."""
        return self.values.get(key)


def read(**values: str) -> LabConfig:
    """Return the configuration of a stack that has both NATs and these keys."""
    return lab_config(Source({"agentNat": "port-restricted", "connectorNat": "symmetric"} | values), PRESETS)


def refused(**values: str) -> str:
    """Return the message of the error that these keys make."""
    with pytest.raises(ConfigError) as failure:
        read(**values)
    return str(failure.value)


def test_two_nats_are_enough() -> None:
    assert read() == LabConfig(
        agent_nat=NatSettings(preset="port-restricted"), connector_nat=NatSettings(preset="symmetric")
    )


def test_a_missing_key_gives_the_yaml_and_both_commands() -> None:
    with pytest.raises(ConfigError) as failure:
        lab_config(Source({"agentNat": "symmetric"}), PRESETS)
    text = str(failure.value)
    assert "lab:connectorNat is missing" in text
    assert "Add to Pulumi.lab.yaml:\n  config:\n    lab:connectorNat: symmetric\n" in text
    assert "ztna config set --stack lab lab:connectorNat symmetric" in text
    assert "pulumi config set --stack lab lab:connectorNat symmetric" in text


def test_a_misspelt_preset_is_answered_with_the_nearest() -> None:
    text = refused(agentNat="simetric")
    assert "lab:agentNat is 'simetric': did you mean 'symmetric'?" in text
    assert "port-restricted, symmetric, udp-blocked" in text
    assert "ztna config set --stack lab lab:agentNat port-restricted" in text


def test_a_nat_may_be_given_by_behaviour() -> None:
    text = '{"mapping": "address-dependent", "filtering": "endpoint-independent", "udpTimeoutS": 30}'
    assert read(agentNat=text).agent_nat == NatSettings(
        preset=None,
        behavior={"mapping": "address-dependent", "filtering": "endpoint-independent", "udp_timeout_s": 30},
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"mapping": "endpoint-independent"}', "filtering is missing in it"),
        ('{"mapping": "endpoint-independent", "filtering": "adress-dependent"}', "did you mean 'address-dependent'"),
        ('{"maping": "x"}', "unknown field 'maping', did you mean 'mapping'"),
        ('{"mapping": ', "it is not JSON"),
    ],
)
def test_a_bad_behaviour_is_explained(value: str, words: str) -> None:
    assert words in refused(agentNat=value)


def test_a_link_is_impaired_both_ways_or_one_way() -> None:
    both = parse_link('{"delayMs": 20, "loss": 0.01, "mtu": 1400}')
    each = ImpairmentSettings(delay_ms=20.0, loss=0.01)
    assert both == LinkSettings(up=each, down=each, mtu=1400)
    one = parse_link('{"delayMs": 5, "up": {"rateBps": 20000000}}')
    assert one.up == ImpairmentSettings(delay_ms=5.0, rate_bps=20_000_000)
    assert one.down == ImpairmentSettings(delay_ms=5.0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"loss": 3}', "loss is 3, it must be a number from 0 to 1"),
        ('{"loss": true}', "loss is True"),
        ('{"delay": 3}', "unknown field 'delay', did you mean 'delayMs'"),
        ('{"mtu": 100}', "it must be 576 to 9000"),
        ('{"up": 3}', "`up` and `down` must be objects"),
        ('{"down": {"los": 0.1}}', "did you mean 'loss'"),
        ("[1]", "it is not an object"),
    ],
)
def test_a_bad_link_is_explained(value: str, words: str) -> None:
    text = refused(relayLink=value)
    assert "lab:relayLink is" in text
    assert words in text
    assert "ztna config set --stack lab lab:relayLink '{\"mtu\": 1400}'" in text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("rung", "roots", "did you mean 'root'"),
        ("logLevel", "loud", "it may be debug, info, warning, error"),
        ("relay", "kernal", "did you mean 'kernel'"),
        ("pkiGeneration", "two", "it is not a whole number"),
        ("pkiGeneration", "0", "it must be 1 to"),
        ("leafDays", "826", "it must be 1 to 825"),
    ],
)
def test_other_keys_are_checked_too(key: str, value: str, words: str) -> None:
    assert words in refused(**{key: value})


def test_every_key_has_help_and_an_example_that_is_accepted() -> None:
    for key in LAB_KEYS:
        assert len(key.help) > 20, key.name
        read(**{key.name: key.example})
        if key.default is not None:
            read(**{key.name: key.default})
