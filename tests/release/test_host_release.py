"""The resource of a release: when it changes, what a refresh sees, and that a host that is gone stops nobody."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from components.host_release import UNSEEN, HostReleaseProvider, _described
from infra import bundle, ssh_release
from infra.ssh_release import HostKeyError, UnreachableError
from tests.release import rig
from tests.release.machine import Machine

PROVIDER = HostReleaseProvider()


def inputs(address: str = "192.0.2.1", release: str = "release-v1", **changes: Any) -> dict[str, Any]:
    """Return what the component gives the resource."""
    reached = {key: value for key, value in asdict(rig.host(address)).items() if key != "address"}
    return {
        "name": "relay",
        "stack": "do-nyc1",
        "run": "blue",
        "machine": "droplet-1",
        "host": address,
        **reached,
        "python": ".".join(rig.system_python()),
        "platform": bundle.Target().platform,
        "release": release,
        "units": [_described(rig.UNIT)],
        "files": {"web": {"page.txt": "hello"}},
        "ready": [rig.READY],
        "sysctls": {},
        **changes,
    }


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host answers, and a preview that asked would be found out."""

    def refuse(*_args: object, **_named: object) -> None:
        raise UnreachableError("no answer")

    for name in ("look", "remove", "deploy"):
        monkeypatch.setattr(ssh_release, name, refuse)


def test_diff_never_asks_the_host(unreachable: None) -> None:
    state = {**inputs(), "deployment": "d1", "status": "healthy"}
    assert PROVIDER.diff("id", state, inputs()).changes is False
    changed = PROVIDER.diff("id", state, inputs(files={"web": {"page.txt": "new"}}))
    assert (changed.changes, changed.replaces) == (True, [])
    assert PROVIDER.diff("id", state, inputs(release="release-v2")).changes is True


def test_another_machine_is_another_release(unreachable: None) -> None:
    found = PROVIDER.diff("id", inputs(), inputs(machine="droplet-2"))
    assert (found.replaces, found.delete_before_replace) == (["machine"], True)


def test_refresh_of_a_host_that_does_not_answer_changes_nothing(unreachable: None) -> None:
    state = {**inputs(), "deployment": "d1"}
    found = PROVIDER.read("id", state)
    assert (found.id, found.outs) == ("id", state)


def test_refresh_sees_what_the_host_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {**inputs(), "deployment": "d1"}

    def seen(answer: dict[str, Any] | None) -> tuple[str | None, dict[str, Any]]:
        monkeypatch.setattr(ssh_release, "look", lambda *_: answer)
        found = PROVIDER.read("id", state)
        return found.id, found.outs or {}

    assert seen({"deployment": "d1", "inactive": []}) == ("id", state)
    for drifted in ({"deployment": "d0", "inactive": []}, {"deployment": "d1", "inactive": ["ztna-connector"]}):
        _, recorded = seen(drifted)
        assert recorded["release"] == UNSEEN
        assert PROVIDER.diff("id", recorded, inputs()).changes is True
    assert seen(None)[0] == ""
    assert seen({"deployment": "", "inactive": []})[0] == ""


@pytest.mark.parametrize("error", [UnreachableError, HostKeyError])
def test_host_that_is_gone_is_deleted_all_the_same(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def refuse(*_args: object, **_named: object) -> None:
        raise error("no answer")

    monkeypatch.setattr(ssh_release, "remove", refuse)
    PROVIDER.delete("id", inputs())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(bundle, "build", lambda _target: rig.small_bundle(tmp_path, "v1"))
    with Machine(tmp_path, files=rig.first_boot_files()) as booted:
        yield booted


@pytest.mark.root
def test_create_refresh_update_and_delete_on_a_real_host(machine: Machine) -> None:
    result = PROVIDER.create(inputs(machine.address))
    assert result.id == "blue/relay"
    created = dict(result.outs or {})
    assert created["status"] == "release release-v1 is healthy"
    assert PROVIDER.read("id", created).outs == created
    updated = dict(
        PROVIDER.update("id", created, inputs(machine.address, files={"web": {"page.txt": "new"}})).outs or {}
    )
    assert rig.page_of(machine) == "v1 new"
    assert updated["deployment"] != created["deployment"]
    PROVIDER.delete("id", updated)
    assert PROVIDER.read("id", updated).id == ""
