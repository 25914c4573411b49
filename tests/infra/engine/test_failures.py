"""What remains when something goes wrong half-way, and how the next run goes on from there."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi import ResourceOptions

from infra.engine.errors import Cancelled, DeploymentFailed, StateError
from infra.engine.operation import Options
from tests.infra.engine.bench import Bench, Thing


def _chain() -> None:
    a = Thing("a")
    b = Thing("b", of=a.serial)
    Thing("c", of=b.serial)


def _latest(bench: Bench) -> dict[str, Any]:
    data = json.loads(Path(bench.root / ".ztna/.pulumi/stacks/bench/dev.json").read_text())
    latest: dict[str, Any] = data["checkpoint"]["latest"]
    return latest


def test_a_failed_create_keeps_what_was_made_and_the_next_run_makes_the_rest(bench: Bench) -> None:
    bench.cloud.failing["create", "b"] = "quota exceeded"
    with pytest.raises(DeploymentFailed) as caught:
        bench.up(_chain)
    assert bench.errors() == "quota exceeded"
    assert "1 error" in caught.value.message
    assert set(bench.resources()) == {"a"}
    bench.cloud.failing.clear()
    bench.up(_chain)
    assert bench.cloud.calls == [("create", "b"), ("create", "c")]


def test_a_failed_program_deletes_nothing(bench: Bench) -> None:
    bench.up(_chain)

    def broken() -> None:
        raise ValueError("typo")

    with pytest.raises(DeploymentFailed):
        bench.up(broken)
    assert "typo" in bench.errors()
    assert bench.cloud.names() == ["a", "b", "c"]


def test_an_error_logged_by_the_program_fails_the_run(bench: Bench) -> None:
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: pulumi.log.error("not like this"))
    assert bench.errors() == "not like this"


def test_a_failed_update_keeps_the_old_inputs_so_that_it_is_tried_again(bench: Bench) -> None:
    bench.up(lambda: _ignore(Thing("a", size=1)))
    bench.cloud.failing["update", "a"] = "busy"
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a", size=2)))
    assert bench.resources()["a"].inputs == {"size": 1}
    bench.cloud.failing.clear()
    bench.up(lambda: _ignore(Thing("a", size=2)))
    assert bench.cloud.calls == [("update", "a")]


def test_a_failed_delete_keeps_the_resource_and_what_it_depends_on(bench: Bench) -> None:
    bench.up(_chain)
    bench.cloud.failing["delete", "b"] = "in use"
    with pytest.raises(DeploymentFailed):
        bench.destroy()
    assert set(bench.resources()) == {"a", "b"}
    bench.cloud.failing.clear()
    bench.destroy()
    assert bench.cloud.things == {}


def test_a_failed_delete_of_a_replaced_resource_is_tried_again(bench: Bench) -> None:
    bench.up(lambda: _ignore(Thing("a", pin="x")))
    bench.cloud.failing["delete", "a"] = "in use"
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a", pin="y")))
    assert set(bench.resources()) == {"a", "a (delete)"}
    bench.cloud.failing.clear()
    bench.up(lambda: _ignore(Thing("a", pin="y")))
    assert bench.ops() == {"a": ["same", "delete-replaced"]}
    assert bench.cloud.things == {"a#2": {"pin": "y"}}


def test_continue_on_error_finishes_the_rest_and_skips_dependents(bench: Bench) -> None:
    def program() -> None:
        _chain()
        Thing("x")

    bench.cloud.failing["create", "a"] = "no"
    with pytest.raises(DeploymentFailed):
        bench.up(program, continue_on_error=True)
    assert set(bench.resources()) == {"x"}
    assert not bench.cloud.verbs("b")


def test_independent_resources_run_in_parallel(bench: Bench) -> None:
    together = threading.Barrier(8, timeout=10)
    bench.cloud.before = lambda verb, name: _ignore_index(together.wait())
    bench.up(lambda: _ignore(*(Thing(f"t{i}") for i in range(8))))
    assert len(bench.resources()) == 8
    bench.destroy()
    assert bench.cloud.things == {}


def test_parallelism_is_bounded(bench: Bench) -> None:
    running, peak, lock = 0, 0, threading.Lock()
    second = threading.Event()

    def before(verb: str, name: str) -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
            if running == 2:
                second.set()
        second.wait(5)
        with lock:
            running -= 1

    bench.cloud.before = before
    bench.up(lambda: _ignore(*(Thing(f"t{i}") for i in range(6))), parallel=2)
    assert peak == 2


def test_an_operation_is_pending_in_the_file_while_it_runs(bench: Bench) -> None:
    seen: list[list[str]] = []

    def before(verb: str, name: str) -> None:
        seen.append([f"{item['type']} {item['resource']['urn'][-1]}" for item in _latest(bench)["pending_operations"]])

    bench.cloud.before = before
    bench.up(lambda: _ignore(Thing("a", size=1)))
    bench.up(lambda: _ignore(Thing("a", size=2)))
    bench.destroy()
    assert seen == [["creating a"], ["updating a"], ["deleting a"]]
    assert "pending_operations" not in _latest(bench)


def test_the_state_before_an_operation_is_kept_as_backup(bench: Bench) -> None:
    bench.up(lambda: _ignore(Thing("a")))
    bench.destroy()
    path = bench.root / ".ztna/.pulumi/stacks/bench/dev.json"
    backup = json.loads(path.with_name("dev.json.bak").read_text())
    assert any(item["urn"].endswith("::a") for item in backup["checkpoint"]["latest"]["resources"])


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_create_whose_answer_was_lost(bench: Bench, idempotent: bool) -> None:
    options = {"idempotent": ("toy:",) if idempotent else ()}
    bench.cloud.lost.add(("create", "a"))
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a")), **options)
    assert [item["type"] for item in _latest(bench)["pending_operations"]] == ["creating"]
    bench.cloud.lost.clear()
    bench.up(lambda: _ignore(Thing("a")), **options)
    if idempotent:
        assert "interrupted while creating" in bench.messages()
        assert "has been done again" in bench.messages()
        assert bench.ops() == {"a": ["same"]}
        assert "pending_operations" not in _latest(bench)
    else:
        assert "it may exist without being in the state" in bench.messages()
        assert bench.ops() == {"a": ["create"]}
        assert len(_latest(bench)["pending_operations"]) == 1


def test_destroy_after_a_lost_create_leaves_nothing(bench: Bench) -> None:
    bench.cloud.lost.add(("create", "a"))
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a")), idempotent=("toy:",))
    # Idempotent: creating it once more yields the same thing, not a second one.
    bench.cloud.lost.clear()
    bench.cloud.things.clear()
    bench.make(lambda: None, idempotent=("toy:",)).destroy()
    assert bench.cloud.calls == [("create", "a"), ("delete", "a")]
    assert bench.cloud.things == {}
    assert "pending_operations" not in _latest(bench)


def test_a_lost_update_is_repeated_before_the_program_changes_its_mind(bench: Bench) -> None:
    options = {"idempotent": ("toy:",)}
    bench.up(lambda: _ignore(Thing("a", size=1)), **options)
    bench.cloud.lost.add(("update", "a"))
    with pytest.raises(DeploymentFailed):
        bench.up(lambda: _ignore(Thing("a", size=2)), **options)
    assert bench.resources()["a"].inputs == {"size": 1}
    bench.cloud.lost.clear()
    bench.up(lambda: _ignore(Thing("a", size=1)), **options)
    assert bench.cloud.calls == [("update", "a"), ("update", "a")]
    assert bench.cloud.things == {"a#1": {"size": 1}}


def test_a_lost_delete_is_repeated_and_the_resource_made_anew_if_wanted(bench: Bench) -> None:
    options = {"idempotent": ("toy:",)}
    bench.up(_chain, **options)
    bench.cloud.lost.add(("delete", "c"))
    with pytest.raises(DeploymentFailed):
        bench.make(lambda: None, **options).destroy()
    bench.cloud.lost.clear()
    bench.up(_chain, **options)
    assert bench.cloud.calls == [("delete", "c"), ("create", "c")]
    assert bench.cloud.names() == ["a", "b", "c"]
    assert not any(item.pending_replacement for item in bench.resources().values())


def test_a_lost_delete_and_then_destroy(bench: Bench) -> None:
    options = {"idempotent": ("toy:",)}
    bench.up(_chain, **options)
    bench.cloud.lost.add(("delete", "c"))
    with pytest.raises(DeploymentFailed):
        bench.make(lambda: None, **options).destroy()
    bench.cloud.lost.clear()
    bench.make(lambda: None, **options).destroy()
    assert bench.cloud.things == {}
    assert bench.resources() == {}


def test_an_interrupt_lets_what_runs_finish_and_begins_nothing_new(bench: Bench) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def before(verb: str, name: str) -> None:
        if name == "a":
            begun.set()
            go_on.wait(10)

    bench.cloud.before = before
    workspace = bench.make(_chain)

    def interrupt() -> None:
        begun.wait(10)
        workspace.interrupt()
        go_on.set()

    threading.Thread(target=interrupt).start()
    with pytest.raises(Cancelled):
        workspace.up()
    assert set(bench.resources()) == {"a"}
    assert bench.errors() == ""
    assert "pending_operations" not in _latest(bench)
    bench.cloud.before = lambda verb, name: None
    bench.up(_chain)
    assert bench.cloud.calls == [("create", "b"), ("create", "c")]


def test_an_interrupted_destroy_goes_on_where_it_stopped(bench: Bench) -> None:
    bench.up(_chain)
    workspace = bench.make(lambda: None)
    bench.cloud.before = lambda verb, name: workspace.interrupt()
    with pytest.raises(Cancelled):
        workspace.destroy()
    assert bench.cloud.calls == [("delete", "c")]
    bench.cloud.before = lambda verb, name: None
    bench.destroy()
    assert bench.cloud.calls == [("delete", "b"), ("delete", "a")]


def test_the_default_is_to_repeat_dynamic_resources_only() -> None:
    assert Options().idempotent == ("pulumi-python:dynamic",)


def test_refresh_takes_over_what_is_there_and_forgets_what_is_gone(bench: Bench) -> None:
    def program() -> None:
        a = Thing("a", size=1)
        Thing("b", ResourceOptions(depends_on=[a]), of=a.serial)

    bench.up(program)
    bench.cloud.things["b#2"] = {"of": "drifted"}
    del bench.cloud.things["a#1"]
    result = bench.refresh()
    assert result.changes == {"delete": 1, "update": 1}
    assert set(bench.resources()) == {"b"}
    assert bench.resources()["b"].inputs == {"of": "drifted"}
    assert bench.resources()["b"].dependencies == []
    bench.up(program)
    assert bench.ops() == {"a": ["create"], "b": ["update"]}


def _ignore(*resources: pulumi.Resource) -> None:
    """A program is a statement; resources register by being made."""


def _ignore_index(index: int) -> None:
    """A barrier tells each thread its place, which nobody needs."""


def test_a_full_disk_stops_the_run_and_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real_fsync = os.fsync

    def fill_up(verb: str, name: str) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)

    bench.cloud.before = fill_up
    with pytest.raises(StateError, match=r"cannot be written .*No space left on device"):
        bench.up(_chain, idempotent=("toy:",))
    assert bench.cloud.names() == ["a"]
    # What was written before the disk was full says what was under way.
    assert [item["type"] for item in _latest(bench)["pending_operations"]] == ["creating"]
    monkeypatch.setattr(os, "fsync", real_fsync)
    bench.cloud.before = lambda verb, name: None
    bench.up(_chain, idempotent=("toy:",))
    assert set(bench.resources()) == {"a", "b", "c"}


def test_what_waits_for_its_turn_when_interrupted_is_not_begun(bench: Bench) -> None:
    workspace = bench.make(lambda: _ignore(*(Thing(f"t{i}") for i in range(4))), parallel=1)
    bench.cloud.before = lambda verb, name: workspace.interrupt()
    with pytest.raises(Cancelled):
        workspace.up()
    assert len(bench.cloud.calls) == 1
    assert len(bench.resources()) == 1


def test_a_rename_that_stops_half_way_leaves_a_consistent_state(bench: Bench) -> None:
    def before() -> None:
        Thing("b", of=Thing("a").serial)

    def after() -> None:
        new = Thing("new", ResourceOptions(aliases=[pulumi.Alias(name="a")]))
        bad = Thing("bad", ResourceOptions(depends_on=[new]))
        Thing("b", ResourceOptions(depends_on=[bad]), of=new.serial)

    bench.up(before)
    bench.cloud.failing["create", "bad"] = "no"
    with pytest.raises(DeploymentFailed):
        bench.up(after)
    state = bench.resources()
    assert state["b"].dependencies == [state["new"].urn]
    bench.cloud.failing.clear()
    bench.up(after)
    assert bench.cloud.calls == [("create", "bad")]
