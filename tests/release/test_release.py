"""Releases to a real sshd and a real systemd: what arrives, what is refused, what survives a failure."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra import ssh_release
from infra.ssh_release import HostKeyError, ReleaseError, UnreachableError, deploy
from tests.release import rig
from tests.release.machine import Machine

pytestmark = pytest.mark.root


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path, files=rig.first_boot_files()) as booted:
        yield booted


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that had its first contact."""
    with Machine(tmp_path_factory.mktemp("machine"), files=rig.first_boot_files(rig.PERMANENT)) as booted:
        yield booted


@pytest.fixture
def running(shared: Machine, tmp_path: Path) -> Machine:
    """A machine that runs version v1."""
    deploy(rig.job(shared, rig.small_bundle(tmp_path, "v1"), first_contact=False))
    return shared


@contextlib.contextmanager
def mounted(machine: Machine, path: str) -> Iterator[None]:
    """A file system of 1 MiB over a directory of a machine."""
    machine.run("mkdir", "-p", path)
    machine.run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path)
    try:
        yield
    finally:
        machine.run("umount", path)


def assert_untouched(machine: Machine, pid: str) -> None:
    """The release that ran before still runs, in the same process."""
    assert machine.main_pid(rig.UNIT.name) == pid != "0"
    assert rig.page_of(machine) == "v1 hello"


def test_first_install_runs_the_release_with_private_files(machine: Machine, tmp_path: Path) -> None:
    told: list[str] = []
    result = deploy(rig.job(machine, rig.small_bundle(tmp_path, "v1"), progress=told.append))
    assert result.status == "installed"
    assert rig.page_of(machine) == "v1 hello"
    mode = machine.run(
        "stat", "--format=%a %U", "/etc/ztna/web/key.pem", "/etc/ztna/releases/" + result.deployment + "/web"
    )
    assert mode.splitlines() == ["600 ztna", "700 ztna"]
    assert machine.run("systemctl", "is-enabled", "ztna-intermediate") == "enabled"
    assert any("first contact" in line for line in told)
    assert any("uploading" in line for line in told)


def test_first_contact_replaces_the_bootstrap_key_for_good(machine: Machine, tmp_path: Path) -> None:
    packed = rig.small_bundle(tmp_path, "v1")
    with pytest.raises(HostKeyError, match="permanent key"):
        deploy(rig.job(machine, packed, first_contact=False))
    deploy(rig.job(machine, packed))
    assert machine.run("ssh-keyscan", "-t", "ed25519", "127.0.0.1").split()[1:3] == rig.PERMANENT.public.split()[:2]
    assert rig.BOOTSTRAP.private.split()[8] not in machine.run("cat", "/etc/ssh/ssh_host_ed25519_key")
    assert deploy(rig.job(machine, packed, first_contact=False)).status == "unchanged"


def test_again_is_a_no_op(running: Machine, tmp_path: Path) -> None:
    pid = running.main_pid(rig.UNIT.name)
    result = deploy(rig.job(running, rig.small_bundle(tmp_path, "v1"), first_contact=False))
    assert (result.status, result.uploaded_bytes) == ("unchanged", 0)
    assert_untouched(running, pid)


def test_upgrade_and_reload(running: Machine, tmp_path: Path) -> None:
    pid = running.main_pid(rig.UNIT.name)
    packed = rig.small_bundle(tmp_path, "v1")
    reloaded = deploy(rig.job(running, packed, page="changed", first_contact=False))
    assert (reloaded.status, reloaded.uploaded_bytes) == ("reloaded", 0)
    assert (rig.page_of(running), running.main_pid(rig.UNIT.name)) == ("v1 changed", pid)
    upgraded = deploy(rig.job(running, rig.small_bundle(tmp_path, "v2"), first_contact=False))
    assert (upgraded.status, upgraded.previous) == ("upgraded", reloaded.deployment)
    assert rig.page_of(running) == "v2 hello"
    assert running.main_pid(rig.UNIT.name) != pid


def test_corrupted_upload_is_refused(running: Machine, tmp_path: Path) -> None:
    pid = running.main_pid(rig.UNIT.name)
    packed = rig.small_bundle(tmp_path, "v5")
    content = bytearray(packed.path.read_bytes())
    content[len(content) // 2] ^= 1
    packed.path.write_bytes(content)
    with pytest.raises(ReleaseError, match="arrived corrupted"):
        deploy(rig.job(running, packed, first_contact=False))
    assert_untouched(running, pid)
    assert running.run("ls", "/var/lib/ztna-release/uploads") == ""


@pytest.mark.parametrize(("page", "why"), [("unwell", "not ready after"), ("crash", "the page says crash")])
def test_unhealthy_release_rolls_back_code_and_files(running: Machine, tmp_path: Path, page: str, why: str) -> None:
    before = running.run("sh", "-c", "readlink /etc/ztna/current; ls /etc/ztna/releases")
    bad = rig.job(running, rig.small_bundle(tmp_path, "v2"), page=page, first_contact=False, ready_timeout_s=4.0)
    with pytest.raises(ReleaseError, match=r"rolled back to deployment .*, which is healthy") as caught:
        deploy(bad)
    assert why in str(caught.value)
    assert "journal of ztna-intermediate" in str(caught.value)
    assert rig.page_of(running) == "v1 hello"
    assert running.run("sh", "-c", "readlink /etc/ztna/current; ls /etc/ztna/releases") == before


def test_unhealthy_first_release_is_stopped(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no previous one, so it was stopped"):
        deploy(rig.job(machine, rig.small_bundle(tmp_path, "v1"), page="crash", ready_timeout_s=4.0))
    assert machine.main_pid(rig.UNIT.name) == "0"
    assert deploy(rig.job(machine, rig.small_bundle(tmp_path, "v1"))).status == "installed"


def test_host_key_mismatch_is_refused_before_anything_is_sent(running: Machine, tmp_path: Path) -> None:
    pid = running.main_pid(rig.UNIT.name)
    other = rig.make_keys()
    stranger = replace(rig.host(running.address), permanent_public=other.public, permanent_private=other.private)
    asked = rig.job(running, rig.small_bundle(tmp_path, "v2"), host=stranger)
    with pytest.raises(HostKeyError, match="nothing was sent"):
        deploy(asked)
    assert_untouched(running, pid)
    assert "Accepted publickey" not in running.run("journalctl", "-u", "ssh", "-n", "1", "-o", "cat")


def test_disk_full_is_told_before_the_upload(running: Machine, tmp_path: Path) -> None:
    pid = running.main_pid(rig.UNIT.name)
    packed = rig.small_bundle(tmp_path, "v9", 4 << 20)
    with mounted(running, "/var/lib/ztna-release/uploads"), pytest.raises(ReleaseError, match="disk full"):
        deploy(rig.job(running, packed, first_contact=False))
    assert_untouched(running, pid)


def test_disk_that_runs_full_while_unpacking(running: Machine, tmp_path: Path) -> None:
    pid = running.main_pid(rig.UNIT.name)
    packed = rig.small_bundle(tmp_path, "v7", 4 << 20)
    with mounted(running, "/opt/ztna/releases"):
        with pytest.raises(ReleaseError, match=r"goes on running: .*No space left"):
            deploy(rig.job(running, packed, first_contact=False))
        assert running.run("ls", "-A", "/opt/ztna/releases") == ""
    assert_untouched(running, pid)
    assert deploy(rig.job(running, packed, first_contact=False)).status == "upgraded"


def test_connection_cut_in_the_upload_goes_on_where_it_ended(running: Machine, tmp_path: Path) -> None:
    pid = running.main_pid(rig.UNIT.name)
    packed = rig.small_bundle(tmp_path, "v8", 8 << 20)
    line = rig.Line(running.address, cut_after=5 << 20)
    with pytest.raises(UnreachableError, match="lost"):
        deploy(rig.job(running, packed, host=rig.host("127.0.0.1", line.port), first_contact=False))
    assert_untouched(running, pid)
    result = deploy(rig.job(running, packed, first_contact=False))
    assert result.status == "upgraded"
    assert result.uploaded_bytes < 6 << 20


def test_partial_upload_that_is_not_the_beginning_is_not_gone_on_with(running: Machine, tmp_path: Path) -> None:
    packed = rig.small_bundle(tmp_path, "v6")
    running.run("mkdir", "-p", "/var/lib/ztna-release/uploads")
    running.run("sh", "-c", f"echo rubbish > /var/lib/ztna-release/uploads/{packed.sha256}.partial")
    assert deploy(rig.job(running, packed, first_contact=False)).uploaded_bytes == packed.path.stat().st_size


def test_connection_cut_while_switching_ends_in_a_healthy_release(running: Machine, tmp_path: Path) -> None:
    """The deployer is gone while the new release proves unhealthy: the host rolls back on its own."""
    line = rig.Line(running.address)

    def cut(told: str) -> None:
        if "waiting until it is ready" in told:
            line.cut()

    with pytest.raises(UnreachableError):
        deploy(
            rig.job(
                running,
                rig.small_bundle(tmp_path, "v2"),
                page="unwell",
                host=rig.host("127.0.0.1", line.port),
                first_contact=False,
                ready_timeout_s=3.0,
                progress=cut,
            )
        )
    until = time.monotonic() + 20
    while "v1 hello" not in running.run("curl", "--silent", rig.READY, check=False):
        assert time.monotonic() < until
        time.sleep(0.1)
    # The lock goes with the host's own end of it.
    assert deploy(rig.job(running, rig.small_bundle(tmp_path, "v1"), first_contact=False)).status == "unchanged"


def test_one_deployer_at_a_time(running: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once: one after the other, and the host ends with one of both, whole."""
    packed = {version: rig.small_bundle(tmp_path, version) for version in ("v2", "v3")}
    results: dict[str, str] = {}

    def go(version: str) -> None:
        results[version] = deploy(rig.job(running, packed[version], first_contact=False)).status

    threads = [threading.Thread(target=go, args=(version,)) for version in packed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"v2": "upgraded", "v3": "upgraded"}
    assert rig.page_of(running) in ("v2 hello", "v3 hello")


def test_old_releases_are_pruned(running: Machine, tmp_path: Path) -> None:
    for version in ("v2", "v3", "v4"):
        deploy(rig.job(running, rig.small_bundle(tmp_path, version), first_contact=False))
    assert running.run("ls", "/opt/ztna/releases").split() == ["release-v2", "release-v3", "release-v4"]
    assert len(running.run("ls", "/etc/ztna/releases").split()) == 3


def test_kernel_setting_that_cannot_be_had_is_refused(running: Machine, tmp_path: Path) -> None:
    pid = running.main_pid(rig.UNIT.name)
    asked = rig.job(running, rig.small_bundle(tmp_path, "v2"), first_contact=False, sysctls={"net.core.rmem_min_": 1})
    with pytest.raises(ReleaseError, match=r"net\.core\.rmem_min_ is -1 and must be at least 1"):
        deploy(asked)
    assert_untouched(running, pid)


def test_look_tells_drift_and_remove_leaves_nothing(running: Machine, tmp_path: Path) -> None:
    reached = rig.host(running.address)
    assert ssh_release.look(reached, "droplet-2") is None
    found = ssh_release.look(reached, "droplet-1")
    assert found is not None
    assert (found["release"], found["inactive"]) == ("release-v1", [])
    running.run("systemctl", "stop", "ztna-intermediate")
    assert (ssh_release.look(reached, "droplet-1") or {})["inactive"] == ["ztna-intermediate"]
    assert ssh_release.remove(reached, "droplet-2") is False
    assert ssh_release.remove(reached, "droplet-1") is True
    assert running.run("sh", "-c", "ls -d /opt/ztna /etc/ztna /etc/systemd/system/ztna-*", check=False) == ""


def test_edited_file_and_stopped_unit_are_mended(running: Machine, tmp_path: Path) -> None:
    running.run("sh", "-c", "echo by hand > /etc/ztna/web/page.txt")
    deploy(rig.job(running, rig.small_bundle(tmp_path, "v1"), first_contact=False))
    assert rig.page_of(running) == "v1 hello"


def test_release_as_a_user_who_may_sudo(running: Machine, tmp_path: Path) -> None:
    assert running.run("sh", "-c", "command -v sudo", check=False), "missing sudo: apt-get install sudo"
    running.run("useradd", "--create-home", "ubuntu")
    running.run("sh", "-c", "echo 'ubuntu ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/ubuntu")
    running.run("sh", "-c", "echo 'Defaults use_pty' >> /etc/sudoers.d/ubuntu")
    running.run("cp", "-r", "/root/.ssh", "/home/ubuntu/.ssh")
    running.run("chown", "-R", "ubuntu:", "/home/ubuntu/.ssh")
    reached = replace(rig.host(running.address), user="ubuntu")
    result = deploy(rig.job(running, rig.small_bundle(tmp_path, "v10", 1 << 20), host=reached, first_contact=False))
    assert result.status == "upgraded"
    assert rig.page_of(running) == "v10 hello"
    running.run("rm", "/etc/sudoers.d/ubuntu")
    with pytest.raises(ReleaseError, match="sudo: a password is required"):
        deploy(rig.job(running, rig.small_bundle(tmp_path, "v1"), host=reached, first_contact=False))
