"""The components of the AWS stack: what they promise is what they register."""

from typing import Any

import pulumi
import pytest

from tests.stacks.test_aws_us_east_2_made import run


def test_annotated_outputs_are_the_registered_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: dict[str, tuple[set[str], set[str]]] = {}
    original = pulumi.ComponentResource.register_outputs

    def note(self: pulumi.ComponentResource, outputs: Any) -> None:
        registered[type(self).__name__] = (set(type(self).__annotations__), set(outputs))
        original(self, outputs)

    monkeypatch.setattr(pulumi.ComponentResource, "register_outputs", note)
    run()
    ours = {name: found for name, found in registered.items() if name.startswith("Aws")}
    assert set(ours) == {
        "AwsCluster", "AwsImages", "AwsNlb", "AwsRelay", "AwsRoles", "AwsSecrets", "AwsSecurityGroups",
        "AwsServiceDiscovery", "AwsServices", "AwsTask", "AwsVpc",
    }  # fmt: skip
    for name, (annotated, given) in ours.items():
        assert annotated == given, name
