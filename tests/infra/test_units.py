"""Units as systemd reads them: valid, hardened, restarted for ever."""

import configparser
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from infra import units
from infra.units import (
    BACKEND_ECHO,
    BACKEND_HTTP,
    CONNECTOR,
    FORWARDING_INTERMEDIATE,
    INTERMEDIATE,
    Unit,
    unit_text,
)
from ztna.io import udp

ALL = (INTERMEDIATE, CONNECTOR, BACKEND_HTTP, BACKEND_ECHO)
EXPOSURE_LIMIT = 3.0


@pytest.mark.parametrize("unit", [*ALL, FORWARDING_INTERMEDIATE], ids=lambda unit: unit.name)
def test_exposure_by_systemd_analyze_is_low(unit: Unit, tmp_path: Path) -> None:
    assert shutil.which("systemd-analyze"), "missing systemd-analyze: apt-get install systemd"
    path = tmp_path / f"{unit.name}.service"
    path.write_text(unit_text(unit))
    limit = f"--threshold={int(EXPOSURE_LIMIT * 10)}"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", limit, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Overall exposure level" in done.stdout, done.stderr
    assert float(done.stdout.split("Overall exposure level for")[1].split()[1]) < EXPOSURE_LIMIT
    assert done.returncode == 0


@pytest.mark.parametrize("unit", [*ALL, FORWARDING_INTERMEDIATE], ids=lambda unit: unit.name)
def test_systemd_knows_every_directive(unit: Unit, tmp_path: Path) -> None:
    path = tmp_path / f"{unit.name}.service"
    path.write_text(unit_text(replace(unit, exec=("/bin/true", *unit.exec[1:]))))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert f"{unit.name}.service" not in done.stderr, done.stderr
    assert done.returncode == 0


def section(unit: Unit, name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit_text(unit))
    return parser[name]


def test_runs_as_its_user_and_restarts_for_ever() -> None:
    for unit in ALL:
        service = section(unit, "Service")
        assert (service["User"], service["Restart"], service["CapabilityBoundingSet"]) == ("ztna", "always", "")
        assert section(unit, "Unit")["StartLimitIntervalSec"] == "0"


def test_only_who_has_the_kernel_forward_has_a_capability_and_no_other_one() -> None:
    service = section(FORWARDING_INTERMEDIATE, "Service")
    assert (service["CapabilityBoundingSet"], service["AmbientCapabilities"]) == ("CAP_NET_ADMIN", "CAP_NET_ADMIN")
    assert (service["NoNewPrivileges"], service["ProtectKernelTunables"]) == ("yes", "yes")
    assert "PrivateUsers" not in service, "in a user namespace it would not be the host's network"
    assert all(section(unit, "Service")["AmbientCapabilities"] == "" for unit in ALL)


def test_a_restart_leaves_the_kernels_rules_to_a_successor_that_forwards_and_a_stop_leaves_nothing() -> None:
    ends = ("KillSignal", "RestartKillSignal")
    assert [section(FORWARDING_INTERMEDIATE, "Service").get(key) for key in ends] == ["SIGINT", "SIGTERM"]
    assert [section(INTERMEDIATE, "Service").get(key) for key in ends] == ["SIGINT", None]
    assert [section(CONNECTOR, "Service").get(key) for key in ends] == [None, None]


def test_the_relay_has_a_private_directory_for_its_socket() -> None:
    service = section(INTERMEDIATE, "Service")
    assert (service["RuntimeDirectory"], service["RuntimeDirectoryMode"]) == ("ztna-intermediate", "0700")
    assert f"/run/{service['RuntimeDirectory']}/admin.sock" == units.ADMIN_SOCKET
    assert "RuntimeDirectory" not in section(CONNECTOR, "Service")


def test_only_what_reads_its_files_again_is_reloaded() -> None:
    assert "ExecReload" in section(INTERMEDIATE, "Service")
    assert "ExecReload" not in section(CONNECTOR, "Service")


def test_backends_talk_to_this_host_alone() -> None:
    assert section(BACKEND_ECHO, "Service")["IPAddressDeny"] == "any"
    assert "IPAddressDeny" not in section(INTERMEDIATE, "Service")


def test_words_of_a_command_reach_it_as_they_are() -> None:
    odd = replace(INTERMEDIATE, exec=("/bin/x", "two words", "100%", "$HOME", 'a"b', ""))
    assert section(odd, "Service")["ExecStart"] == r'/bin/x "two words" 100%% $$HOME "a\"b" ""'


def test_buffers_are_those_that_our_sockets_ask_for() -> None:
    assert units.UDP_BUFFER_BYTES == udp.DEFAULT_BUFFER_BYTES
    assert f"net.core.rmem_max = {udp.DEFAULT_BUFFER_BYTES}\n" in units.sysctl_text()
