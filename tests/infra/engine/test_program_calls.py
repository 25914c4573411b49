"""Other calls of the program: stack references, explicit providers, functions, hooks; and what is refused by name."""

from typing import Any

import pulumi
import pytest
from pulumi import Output, ResourceOptions

from infra.engine.errors import DeploymentFailed
from tests.infra.engine.bench import Bench, Group, Thing


class Toy(pulumi.ProviderResource):
    """An explicit provider of the toy cloud."""

    def __init__(self, name: str, opts: ResourceOptions | None = None, **props: Any) -> None:
        super().__init__("toy", name, props, opts)


def _providers(bench: Bench) -> dict[str, str]:
    resources = bench.workspace.state().resources
    return {item.urn.split("::")[-1]: item.id for item in resources if item.type == "pulumi:providers:toy"}


def test_a_stack_reference_reads_outputs_and_keeps_secrets_secret(bench: Bench) -> None:
    def network() -> None:
        pulumi.export("cidr", "10.0.0.0/8")
        pulumi.export("key", Output.secret("hunter2"))

    def program() -> None:
        reference = pulumi.StackReference("organization/bench/network")
        pulumi.export("cidr", reference.require_output("cidr"))
        pulumi.export("key", reference.get_output("key"))
        pulumi.export("absent", reference.get_output("absent").apply(lambda value: value or "nothing"))

    bench.stack = "network"
    bench.up(network)
    bench.stack = "dev"
    expected = {"cidr": "10.0.0.0/8", "key": "[secret]", "absent": "nothing"}
    assert bench.preview(program).outputs == expected
    assert bench.up(program).outputs == expected
    assert bench.workspace.outputs(show_secrets=True)["key"] == "hunter2"
    assert bench.up(program).outputs == expected
    bench.destroy()


def test_a_reference_to_a_stack_that_never_was_fails(bench: Bench) -> None:
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(pulumi.StackReference("elsewhere")))
    assert "stack reference 'elsewhere': stack 'elsewhere' of project 'bench' has no state" in bench.errors()


def test_an_explicit_provider_serves_its_resources(bench: Bench) -> None:
    def program() -> None:
        toy = Toy("mine", region="here")
        Thing("a", ResourceOptions(provider=toy))
        Thing("b", ResourceOptions(parent=Group("g", ResourceOptions(providers=[toy]))))

    bench.up(program)
    assert bench.cloud.configured == [{"region": "here"}]
    assert list(_providers(bench)) == ["mine"]
    bench.up(program)
    assert bench.ops() == {"a": ["same"], "b": ["same"], "g": ["same"]}
    bench.destroy()
    assert bench.cloud.things == {}


def test_a_changed_provider_is_updated_and_a_replaced_one_replaces_its_resources(bench: Bench) -> None:
    def program(region: str, retries: int) -> None:
        Thing("a", ResourceOptions(provider=Toy("mine", region=region, retries=retries)))

    bench.up(lambda: program("here", 1))
    before = _providers(bench)
    bench.up(lambda: program("here", 2))
    assert bench.ops() == {"a": ["same"]}
    assert _providers(bench) == before
    bench.preview(lambda: program("there", 2))
    assert bench.ops() == {"a": ["create-replacement", "delete"]}
    bench.up(lambda: program("there", 2))
    assert bench.ops() == {"a": ["create-replacement", "delete"]}
    assert _providers(bench) != before


def test_a_provider_with_unknown_configuration_can_be_previewed(bench: Bench) -> None:
    def program() -> None:
        Thing("a", ResourceOptions(provider=Toy("mine", region=Thing("first").serial)))

    bench.preview(program)
    assert bench.ops() == {"first": ["create"], "a": ["create"]}
    assert bench.cloud.configured == [{}]  # the default provider alone
    bench.up(program)
    assert bench.cloud.configured == [{}, {}, {"region": "first#1"}]


def test_a_function_of_a_package_is_called(bench: Bench) -> None:
    def program() -> None:
        answer = pulumi.runtime.invoke("toy:index:echo", {"text": "hi"})
        pulumi.export("answer", answer.value)
        later = pulumi.runtime.invoke_output("toy:index:echo", {"text": Output.secret("s")})
        pulumi.export("later", later)

    outputs = bench.up(program).outputs
    assert outputs["answer"] == {"echo": "hi", "function": "toy:index:echo"}
    assert outputs["later"] == "[secret]"


def test_a_refused_function_call_says_why(bench: Bench) -> None:
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(pulumi.runtime.invoke("toy:index:echo", {"bad": True})))
    assert "is bad" in bench.errors()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ResourceOptions(import_="x"), "option `import_`"),
        (ResourceOptions(replacement_trigger=1), "option `replacement_trigger`"),
        (ResourceOptions(replace_with=[]), ""),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(bench: Bench, options: ResourceOptions, words: str) -> None:
    if not words:
        bench.up(lambda: _ignore(Thing("a", options)))
        return
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a", options)))
    assert f"does not model the resource {words}, which toy:index:Thing 'a' uses" in bench.errors()
    assert bench.cloud.calls == []


def test_remote_components_and_unknown_packages_are_refused_by_name(bench: Bench) -> None:
    class Remote(pulumi.ComponentResource):
        def __init__(self) -> None:
            super().__init__("toy:index:Remote", "r", {}, None, True)

    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Remote()))
    assert "remote components" in bench.errors()

    class Foreign(pulumi.CustomResource):
        def __init__(self) -> None:
            super().__init__("nosuch:index:Thing", "f", {})

    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Foreign()))
    assert "no provider for package 'nosuch'" in bench.errors()


def _ignore(*values: object) -> None:
    """A program is a statement; resources register by being made."""
