"""What becomes of a resource: create, same, update, replace, delete, read. One test per rule."""

import pulumi
import pytest
from pulumi import ResourceOptions

from infra.engine.errors import DeploymentFailed, ResourceError
from infra.engine.providers import Failure
from tests.infra.engine.bench import Bench, Group, Thing


def test_a_new_resource_is_created_and_its_outputs_reach_the_program(bench: Bench) -> None:
    result = bench.up(lambda: pulumi.export("serial", Thing("a", size=1).serial))
    assert bench.ops() == {"a": ["create"]}
    assert result.outputs == {"serial": "a#1"}
    assert result.changes == {"create": 2}  # with the stack itself


def test_an_unchanged_resource_stays_the_same(bench: Bench) -> None:
    bench.up(lambda: pulumi.export("serial", Thing("a", size=1).serial))
    result = bench.up(lambda: pulumi.export("serial", Thing("a", size=1).serial))
    assert bench.ops() == {"a": ["same"]}
    assert bench.cloud.calls == []
    assert result.outputs == {"serial": "a#1"}


def test_a_changed_input_is_an_update_in_place(bench: Bench) -> None:
    bench.up(lambda: _ignore(Thing("a", size=1)))
    bench.up(lambda: _ignore(Thing("a", size=2)))
    assert bench.ops() == {"a": ["update"]}
    assert bench.cloud.things == {"a#1": {"size": 2}}
    assert bench.resources()["a"].outputs == {"size": 2, "serial": "a#1"}


def test_a_provider_without_an_opinion_leaves_the_comparison_to_the_engine(bench: Bench) -> None:
    bench.up(lambda: _ignore(Thing("a", kind="Vague", size=1)))
    bench.up(lambda: _ignore(Thing("a", kind="Vague", size=1)))
    assert bench.ops() == {"a": ["same"]}
    bench.up(lambda: _ignore(Thing("a", kind="Vague", size=1.5)))
    assert bench.ops() == {"a": ["update"]}


def test_a_replacement_is_created_first_and_the_old_one_deleted_after_the_program(bench: Bench) -> None:
    def program(pin: str) -> None:
        a = Thing("a", pin=pin)
        Thing("b", of=a.serial)

    bench.up(lambda: program("x"))
    bench.up(lambda: program("y"))
    assert bench.ops() == {"a": ["create-replacement", "delete-replaced"], "b": ["update"]}
    assert bench.cloud.calls == [("create", "a"), ("update", "b"), ("delete", "a")]
    assert bench.cloud.names() == ["a", "b"]
    assert set(bench.resources()) == {"a", "b"}


def test_delete_before_replace_of_the_provider(bench: Bench) -> None:
    bench.up(lambda: _ignore(Thing("a", kind="Single", pin="x")))
    bench.up(lambda: _ignore(Thing("a", kind="Single", pin="y")))
    assert bench.cloud.calls == [("delete", "a"), ("create", "a")]
    assert bench.ops() == {"a": ["delete-replaced", "create-replacement"]}


def test_the_option_overrides_the_providers_order_of_replacement(bench: Bench) -> None:
    first, last = ResourceOptions(delete_before_replace=True), ResourceOptions(delete_before_replace=False)
    bench.up(lambda: _ignore(Thing("a", first, pin="x"), Thing("b", last, kind="Single", pin="x")))
    bench.up(lambda: _ignore(Thing("a", first, pin="y")))
    assert bench.cloud.calls[:2] == [("delete", "a"), ("create", "a")]
    bench.up(lambda: _ignore(Thing("b", last, kind="Single", pin="x")))
    bench.up(lambda: _ignore(Thing("b", last, kind="Single", pin="y")))
    assert bench.cloud.calls == [("create", "b"), ("delete", "b")]


def test_delete_before_replace_takes_dependents_that_would_be_replaced_along(bench: Bench) -> None:
    def program(pin: str) -> None:
        a = Thing("a", kind="Single", pin=pin)
        b = Thing("b", pin_of=a.serial)
        Thing("c", pin_of=b.serial)
        Thing("d", of=a.serial)
        Thing("e", ResourceOptions(depends_on=[a]))

    bench.up(lambda: program("x"))
    bench.up(lambda: program("y"))
    assert bench.cloud.calls[:3] == [("delete", "c"), ("delete", "b"), ("delete", "a")]
    assert bench.cloud.calls[3] == ("create", "a")
    assert [bench.cloud.verbs(name) for name in "bcde"] == [
        ["delete", "create"], ["delete", "create"], ["update"], [],
    ]  # fmt: skip
    assert bench.ops()["b"] == ["delete-replaced", "create-replacement"]
    assert not any(item.pending_replacement for item in bench.resources().values())


def test_a_dependent_deleted_for_a_replacement_and_gone_from_the_program_is_forgotten(bench: Bench) -> None:
    def program(pin: str, with_b: bool) -> None:
        a = Thing("a", kind="Single", pin=pin)
        if with_b:
            Thing("b", pin_of=a.serial)

    bench.up(lambda: program("x", True))
    bench.up(lambda: program("y", False))
    assert bench.cloud.verbs("b") == ["delete"]
    assert set(bench.resources()) == {"a"}


def test_a_failed_recreation_is_made_up_for_by_the_next_run(bench: Bench) -> None:
    def program(pin: str) -> None:
        a = Thing("a", kind="Single", pin=pin)
        Thing("b", pin_of=a.serial)

    bench.up(lambda: program("x"))
    bench.cloud.failing["create", "a"] = "no room"
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: program("y"))
    assert [bench.resources()[name].pending_replacement for name in "ab"] == [True, True]
    bench.cloud.failing.clear()
    bench.up(lambda: program("y"))
    assert bench.cloud.calls == [("create", "a"), ("create", "b")]
    assert bench.cloud.names() == ["a", "b"]


def test_what_the_program_no_longer_names_is_deleted_dependents_first(bench: Bench) -> None:
    def program() -> None:
        a = Thing("a")
        b = Thing("b", of=a.serial)
        Thing("c", ResourceOptions(depends_on=[b]))

    bench.up(program)
    bench.up(lambda: None)
    assert bench.cloud.calls == [("delete", "c"), ("delete", "b"), ("delete", "a")]
    assert bench.resources() == {}


def test_destroy_deletes_children_before_parents_and_leaves_an_empty_state(bench: Bench) -> None:
    def program() -> None:
        group = Group("g")
        a = Thing("a", ResourceOptions(parent=group))
        Thing("b", ResourceOptions(parent=a))

    bench.up(program)
    result = bench.destroy()
    assert bench.cloud.calls == [("delete", "b"), ("delete", "a")]
    assert list(bench.ops()) == ["b", "a", "g"]
    assert bench.workspace.state().resources == []
    assert result.changes == {"delete": 4}


def test_destroy_of_a_stack_that_never_was_does_nothing(bench: Bench) -> None:
    assert bench.destroy().changes == {}


def test_a_protected_resource_is_neither_deleted_nor_replaced(bench: Bench) -> None:
    guarded = ResourceOptions(protect=True)
    bench.up(lambda: _ignore(Thing("a", guarded, pin="x")))
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a", guarded, pin="y")))
    assert "protected" in bench.errors()
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: None)
    assert "cannot delete" in bench.errors()
    with pytest.raises(ResourceError, match="cannot destroy"):
        bench.destroy()
    assert bench.cloud.names() == ["a"]
    bench.up(lambda: _ignore(Thing("a", pin="x")))
    bench.destroy()
    assert bench.cloud.things == {}


def test_a_protected_dependent_stops_delete_before_replace(bench: Bench) -> None:
    def program(pin: str) -> None:
        a = Thing("a", kind="Single", pin=pin)
        Thing("b", ResourceOptions(protect=True), pin_of=a.serial)

    bench.up(lambda: program("x"))
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: program("y"))
    assert bench.cloud.calls == []


def test_ignored_changes_keep_the_old_value(bench: Bench) -> None:
    bench.up(lambda: _ignore(Thing("a", size=1, tags={"x": 1, "y": 1})))
    some = ResourceOptions(ignore_changes=["size", "tags.x"])
    bench.up(lambda: _ignore(Thing("a", some, size=2, tags={"x": 2, "y": 2})))
    assert bench.cloud.things["a#1"] == {"size": 1, "tags": {"x": 1, "y": 2}}
    every = ResourceOptions(ignore_changes=["*"])
    bench.up(lambda: _ignore(Thing("a", every, size=7, tags={})))
    assert bench.ops() == {"a": ["same"]}


def test_replace_on_changes_turns_an_update_into_a_replacement(bench: Bench) -> None:
    options = ResourceOptions(replace_on_changes=["size"])
    bench.up(lambda: _ignore(Thing("a", options, size=1, other=1)))
    bench.up(lambda: _ignore(Thing("a", options, size=1, other=2)))
    assert bench.ops() == {"a": ["update"]}
    bench.up(lambda: _ignore(Thing("a", options, size=2, other=2)))
    assert bench.ops() == {"a": ["create-replacement", "delete-replaced"]}


def test_retain_on_delete_forgets_without_deleting(bench: Bench) -> None:
    options = ResourceOptions(retain_on_delete=True)
    bench.up(lambda: _ignore(Thing("a", options), Thing("b", options)))
    bench.up(lambda: _ignore(Thing("b", options)))
    assert bench.ops() == {"b": ["same"], "a": ["delete"]}
    bench.destroy()
    assert bench.cloud.names() == ["a", "b"]
    assert bench.resources() == {}


def test_deleted_with_spares_the_call_when_both_go(bench: Bench) -> None:
    def program(*names: str) -> None:
        a = Thing("a")
        for name in names:
            Thing(name, ResourceOptions(deleted_with=a))

    bench.up(lambda: program("b", "c"))
    bench.up(lambda: program("b"))
    assert bench.cloud.calls == [("delete", "c")]
    bench.destroy()
    assert bench.cloud.calls == [("delete", "a")]
    assert bench.resources() == {}


def test_deleted_with_a_replaced_resource_is_replaced(bench: Bench) -> None:
    def program(pin: str) -> None:
        Thing("b", ResourceOptions(deleted_with=Thing("a", pin=pin)))

    bench.up(lambda: program("x"))
    bench.up(lambda: program("y"))
    assert bench.ops()["b"] == ["create-replacement", "delete-replaced"]
    assert bench.cloud.calls == [("create", "a"), ("create", "b"), ("delete", "a")]


def test_an_alias_renames_without_touching_the_resource(bench: Bench) -> None:
    def before() -> None:
        a = Thing("a")
        Thing("b", of=a.serial)

    def after() -> None:
        new = Thing("new", ResourceOptions(aliases=[pulumi.Alias(name="a")]))
        Thing("b", of=new.serial)

    bench.up(before)
    bench.up(after)
    assert bench.ops() == {"new": ["same"], "b": ["same"]}
    assert set(bench.resources()) == {"new", "b"}
    assert bench.cloud.calls == []
    bench.up(after)
    assert bench.ops() == {"new": ["same"], "b": ["same"]}


def test_an_alias_of_a_parent_is_inherited_by_its_children(bench: Bench) -> None:
    def program(name: str, aliases: list[pulumi.Alias]) -> None:
        group = Group(name, ResourceOptions(aliases=[*aliases]))
        child = Thing(f"{name}-child", ResourceOptions(parent=group))
        Thing(f"{name}-child-child", ResourceOptions(parent=child))
        Thing("other", ResourceOptions(parent=group, aliases=[pulumi.Alias(name="another")]))

    bench.up(lambda: program("old", []))
    bench.up(lambda: program("new", [pulumi.Alias(name="old")]))
    assert bench.ops() == {"new": ["same"], "new-child": ["same"], "new-child-child": ["same"], "other": ["same"]}
    assert bench.cloud.calls == []
    bench.up(lambda: program("new", []))
    assert set(bench.resources()) == {"new", "new-child", "new-child-child", "other"}
    bench.destroy()
    assert bench.cloud.things == {}


def test_a_resource_that_moves_below_a_parent_keeps_its_identity(bench: Bench) -> None:
    bench.up(lambda: _ignore(Thing("a"), Thing("b", ResourceOptions(parent=Group("g")))))

    def moved() -> None:
        group = Group("g")
        Thing("a", ResourceOptions(parent=group, aliases=[pulumi.Alias(parent=pulumi.ROOT_STACK_RESOURCE)]))
        former = "urn:pulumi:dev::bench::toy:index:Group$toy:index:Thing::b"
        Thing("b", ResourceOptions(aliases=[former]))

    bench.up(moved)
    assert bench.ops() == {"g": ["same"], "a": ["same"], "b": ["same"]}
    assert bench.cloud.calls == []


def test_two_resources_cannot_claim_one_alias(bench: Bench) -> None:
    bench.up(lambda: _ignore(Thing("a")))
    alias = ResourceOptions(aliases=[pulumi.Alias(name="a")])
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("b", alias), Thing("c", alias)))
    assert "already taken" in bench.errors()


def test_a_duplicate_name_is_an_error(bench: Bench) -> None:
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a"), Thing("a")))
    assert "duplicate resource URN" in bench.errors()


def test_depends_on_a_component_waits_for_its_children(bench: Bench) -> None:
    def program() -> None:
        group = Group("g")
        Thing("slow", ResourceOptions(parent=group))
        group.register_outputs({})
        Thing("after", ResourceOptions(depends_on=[group]))

    bench.up(program)
    assert bench.cloud.calls == [("create", "slow"), ("create", "after")]
    urns = {name: item.urn for name, item in bench.resources().items()}
    assert urns["slow"] in bench.resources()["after"].dependencies


def test_component_inputs_and_outputs_are_recorded(bench: Bench) -> None:
    def program(size: int) -> None:
        group = Group("g", size=size)
        group.register_outputs({"serial": Thing("a", ResourceOptions(parent=group)).serial})

    bench.up(lambda: program(1))
    assert bench.resources()["g"].inputs == {"size": 1}
    assert bench.resources()["g"].outputs == {"serial": "a#1"}
    bench.up(lambda: program(2))
    assert bench.ops() == {"g": ["update"], "a": ["same"]}


def test_a_failed_check_names_resource_and_property(bench: Bench) -> None:
    bench.cloud.invalid["a"] = [Failure("size", "must be odd")]
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a", size=2)))
    assert "toy:index:Thing 'a' is not valid: size: must be odd" in bench.errors()


def test_an_unready_resource_is_kept_with_its_error_and_finished_by_the_next_run(bench: Bench) -> None:
    bench.cloud.unready.add("a")
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a")))
    assert bench.resources()["a"].init_errors == ["not yet"]
    bench.cloud.unready.clear()
    bench.up(lambda: _ignore(Thing("a")))
    assert bench.cloud.calls == [("update", "a")]
    assert bench.resources()["a"].init_errors == []


def test_get_reads_and_does_not_own(bench: Bench) -> None:
    bench.cloud.things["theirs#9"] = {"size": 3}

    def program() -> None:
        theirs = Thing("theirs", ResourceOptions(id="theirs#9"))
        pulumi.export("serial", theirs.serial)

    assert bench.up(program).outputs == {"serial": "theirs#9"}
    assert bench.ops() == {"theirs": ["read"]}
    assert bench.resources()["theirs"].external
    bench.destroy()
    assert bench.cloud.calls == []
    assert bench.cloud.names() == ["theirs"]


def test_get_of_something_that_is_not_there_fails(bench: Bench) -> None:
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a", ResourceOptions(id="nowhere"))))
    assert "there is no resource with id 'nowhere'" in bench.errors()


def test_custom_timeouts_reach_the_provider(bench: Bench) -> None:
    options = ResourceOptions(custom_timeouts=pulumi.CustomTimeouts(create="1m30s", delete="2h"))
    bench.up(lambda: _ignore(Thing("a", options)))
    bench.destroy()
    assert bench.cloud.timeouts == {("create", "a"): 90.0, ("delete", "a"): 7200.0}


def test_the_state_keeps_dependencies_in_order(bench: Bench) -> None:
    def program() -> None:
        a = Thing("a")
        Thing("b", of=a.serial)

    bench.up(program)
    state = bench.resources()
    assert list(state) == ["a", "b"]
    assert state["b"].property_dependencies == {"of": [state["a"].urn]}
    assert state["b"].dependencies == [state["a"].urn]


def _ignore(*resources: pulumi.Resource) -> None:
    """A program is a statement; resources register by being made."""
