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
    assert bench.ops() == {"a": ["create-replacement", "delete-replaced"]}
    bench.up(lambda: program("there", 2))
    assert bench.ops() == {"a": ["create-replacement", "delete-replaced"]}
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


def test_transforms_of_resource_parent_and_stack_run_in_this_order(bench: Bench) -> None:
    def marks(mark: str) -> Any:
        def transform(args: pulumi.ResourceTransformArgs) -> pulumi.ResourceTransformResult | None:
            if args.type_ != "toy:index:Thing":
                return None
            return pulumi.ResourceTransformResult(
                {**args.props, "mark": f"{args.props.get('mark', '')}{mark}"}, args.opts
            )

        return transform

    def program() -> None:
        pulumi.runtime.register_resource_transform(marks("s"))
        group = Group("g", ResourceOptions(transforms=[marks("p")]))
        Thing("a", ResourceOptions(parent=group, transforms=[marks("o")]))
        Thing("b")
        Thing("c", ResourceOptions(parent=Group("h", ResourceOptions(parent=group, transforms=[marks("q")]))))

    bench.up(program)
    found = {name: item.inputs.get("mark") for name, item in bench.resources().items()}
    assert found == {"g": None, "a": "ops", "b": "s", "h": None, "c": "qps"}


def test_a_transform_can_change_options(bench: Bench) -> None:
    def protect(args: pulumi.ResourceTransformArgs) -> pulumi.ResourceTransformResult:
        options = ResourceOptions.merge(
            args.opts,
            ResourceOptions(protect=True, ignore_changes=["size"], custom_timeouts=pulumi.CustomTimeouts(create="5m")),
        )
        return pulumi.ResourceTransformResult(args.props, options)

    def program(size: int) -> None:
        first = Thing("first")
        Thing("a", ResourceOptions(transforms=[protect], depends_on=[first], retain_on_delete=True), size=size)

    bench.up(lambda: program(1))
    state = bench.resources()
    assert state["a"].protect
    assert state["a"].retain_on_delete
    assert state["a"].dependencies == [state["first"].urn]
    assert state["a"].custom_timeouts == {"create": 300.0}
    bench.up(lambda: program(2))
    assert bench.ops()["a"] == ["same"]


def test_a_failing_transform_is_an_error_of_the_resource(bench: Bench) -> None:
    def fail(args: pulumi.ResourceTransformArgs) -> pulumi.ResourceTransformResult:
        raise ValueError("will not have it")

    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a", ResourceOptions(transforms=[fail]))))
    assert "will not have it" in bench.errors()
    assert bench.cloud.calls == []


def test_invoke_transforms_change_the_arguments(bench: Bench) -> None:
    def shout(args: pulumi.InvokeTransformArgs) -> pulumi.InvokeTransformResult:
        return pulumi.InvokeTransformResult({**args.args, "text": str(args.args["text"]).upper()}, args.opts)

    def program() -> None:
        pulumi.runtime.register_invoke_transform(shout)
        pulumi.export("answer", pulumi.runtime.invoke_output("toy:index:echo", {"text": "hi"}))

    assert bench.up(program).outputs["answer"]["echo"] == "HI"


def test_hooks_run_around_create_update_and_delete(bench: Bench) -> None:
    seen: list[str] = []

    def hook(name: str, **options: Any) -> pulumi.ResourceHook:
        def run(args: pulumi.ResourceHookArgs) -> None:
            inputs = args.new_inputs or args.old_inputs or {}
            seen.append(f"{name} {args.name} {int(inputs['size'])}")
            bench.cloud.calls.append((name, str(args.name)))

        return pulumi.ResourceHook(name, run, pulumi.ResourceHookOptions(**options))

    def program(size: int, present: bool = True) -> None:
        hooks = pulumi.ResourceHookBinding(
            before_create=[hook("before")], after_create=[hook("after")], after_update=[hook("updated")],
            before_delete=[hook("leaving")],
        )  # fmt: skip
        if present:
            Thing("a", ResourceOptions(hooks=hooks), size=size)

    bench.preview(lambda: program(1))
    assert seen == []
    bench.up(lambda: program(1))
    assert bench.cloud.calls == [("before", "a"), ("create", "a"), ("after", "a")]
    bench.up(lambda: program(2))
    assert bench.cloud.calls == [("update", "a"), ("updated", "a")]
    assert seen == ["before a 1", "after a 1", "updated a 2"]
    bench.up(lambda: program(2))
    assert bench.cloud.calls == []
    with pytest.raises(DeploymentFailed):
        bench.destroy()
    assert "the resource hook 'leaving'" in bench.errors()
    bench.up(lambda: program(2, present=False))
    assert bench.cloud.calls == [("leaving", "a"), ("delete", "a")]


def test_a_failing_hook_stops_what_it_stands_before(bench: Bench) -> None:
    def refuse(args: pulumi.ResourceHookArgs) -> None:
        raise ValueError("not today")

    def program() -> None:
        hook = pulumi.ResourceHook("refuse", refuse)
        Thing("a", ResourceOptions(hooks=pulumi.ResourceHookBinding(before_create=[hook])))

    with pytest.raises(DeploymentFailed):
        bench.up(program)
    assert "not today" in bench.errors()
    assert bench.cloud.calls == []
