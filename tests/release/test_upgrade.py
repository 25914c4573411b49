"""The real bundle on a real machine: everything of a relay host runs hardened, and an upgrade costs sessions little."""

import datetime as dt
import json
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra import bundle, cloudinit, pki, units, wiring
from infra.bundle import Bundle
from infra.config_overlay import OverlaySettings, service_settings
from infra.overlay import LOOPBACK, Overlay
from infra.ssh_release import ReleaseJob, deploy
from tests.release import rig
from tests.release.machine import Machine, run

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def free_port() -> int:
    """A UDP port of this machine that nobody has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


FORWARD_PORT = free_port()
INTERVAL_S = 0.05
GAP_LIMIT_S = 5.0
CAP_NET_ADMIN = 12
UNITS = (units.BACKEND_HTTP, units.BACKEND_ECHO, units.INTERMEDIATE, units.CONNECTOR)
OVERLAY = Overlay(
    stack="do-nyc1",
    run="test",
    settings=OverlaySettings(
        services=(
            service_settings("echo-service", "127.0.0.1:9999", "udp/9999", "tcp/9999", "icmp"),
            service_settings("http-app", "127.0.0.1:8080", "tcp/80"),
        ),
        agents=("laptop",),
        run="test",
    ),
    admin_socket=units.ADMIN_SOCKET,
    own_host=True,
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    with Machine(folder, files=rig.first_boot_files(), size="2g") as booted:
        yield booted


@pytest.fixture(scope="module")
def job(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> ReleaseJob:
    """The release of a relay host, deployed."""
    target = bundle.Target(python=".".join(rig.system_python()), platform=f"manylinux_2_28_{platform.machine()}")
    wanted = ReleaseJob(
        host=rig.host(machine.address),
        machine="droplet-1",
        bundle=bundle.build(target),
        units=UNITS,
        files=role_files(machine.address),
        ready=tuple(units.READY[unit.name] for unit in UNITS),
        python=target.python,
        processor=target.machine,
        # The buffers are this machine's, not those of a network namespace.
        sysctls={},
        first_contact=True,
    )
    assert deploy(wanted).status == "installed"
    return replace(wanted, first_contact=False)


CA = pki.make_ca(OVERLAY.stack, now=dt.datetime.now(dt.UTC), days=30)


def leaf(names: pki.LeafNames) -> dict[str, str]:
    pair = pki.make_leaf(CA, names, now=dt.datetime.now(dt.UTC), days=7)
    return {"cert.pem": pair.cert_pem, "key.pem": pair.key_pem, "ca.pem": CA.cert_pem}


def role_files(address: str) -> dict[str, dict[str, str]]:
    """Return the files of both roles of a host."""
    granted = [service.id for service in OVERLAY.services]
    relay = pki.server_names(OVERLAY.stack, OVERLAY.relay_name, OVERLAY.server_name, [address])
    connector = pki.client_names(OVERLAY.stack, "connector", OVERLAY.connector_name, granted)
    return {
        "intermediate": {**leaf(relay), **OVERLAY.intermediate_files()},
        "connector": {**leaf(connector), **OVERLAY.connector_files(LOOPBACK)},
    }


class Pings:
    """UDP echoes through an agent, until stopped; knows when each answer came."""

    def __init__(self) -> None:
        self.answers: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", FORWARD_PORT))
            sock.settimeout(INTERVAL_S)
            while not self._stop.is_set():
                try:
                    sock.send(b"ping")
                    sock.recv(100)
                    self.answers.append(time.monotonic())
                    time.sleep(INTERVAL_S)
                except TimeoutError:
                    continue
                except OSError:
                    time.sleep(INTERVAL_S)

    def __enter__(self) -> "Pings":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait for so many more answers."""
        wanted, until = len(self.answers) + count, time.monotonic() + timeout_s
        while len(self.answers) < wanted:
            assert time.monotonic() < until, f"{wanted - len(self.answers)} answers are missing"
            time.sleep(INTERVAL_S)

    def longest_gap_s(self) -> float:
        return max(after - before for before, after in zip(self.answers, self.answers[1:], strict=False))


@pytest.fixture
def agent(machine: Machine, job: ReleaseJob, tmp_path: Path) -> Iterator[None]:
    """An agent in user mode on this machine."""
    names = pki.client_names(OVERLAY.stack, "agent", "laptop", [service.id for service in OVERLAY.services])
    own = leaf(names)
    plain = {**OVERLAY.agent_config("laptop", machine.address), "forwards": [], "metrics_port": 0}
    config = wiring.with_identity(plain, ca_pem=own["ca.pem"], cert_pem=own["cert.pem"], key_pem=own["key.pem"])
    (tmp_path / "agent.json").touch(mode=0o600)
    (tmp_path / "agent.json").write_text(json.dumps(config))
    argv = [sys.executable, "-m", "ztna", "agent", "--config", str(tmp_path / "agent.json"), "--mode", "user"]
    forward = ["--forward-udp", f"{FORWARD_PORT}=echo-service:9999"]
    with (tmp_path / "agent.log").open("wb") as log:
        process = subprocess.Popen([*argv, *forward], stdout=log, stderr=log)
    yield
    process.terminate()
    process.wait(10)


def another(packed: Bundle, folder: Path) -> Bundle:
    """Return a bundle of another release that differs by a comment."""
    import tarfile

    with tarfile.open(packed.path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
    members["lib/ztna/__init__.py"] += b"# another release\n"
    path = folder / "another.tar.gz"
    path.write_bytes(bundle.archive(members))
    return Bundle(path=path, sha256=bundle.file_sha256(path), release_id="another")


def test_units_run_hardened_under_their_user(machine: Machine, job: ReleaseJob) -> None:
    for unit in UNITS:
        user = machine.run("ps", "-o", "user=", "-p", machine.main_pid(unit.name))
        assert user == "ztna", unit.name
        capabilities = machine.run("grep", "CapEff", f"/proc/{machine.main_pid(unit.name)}/status")
        assert int(capabilities.split()[1], 16) == 0
    echoed = machine.run("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9999; echo hello >&3; head -1 <&3")
    assert echoed == "hello"


def test_again_with_the_real_bundle_is_a_no_op(machine: Machine, job: ReleaseJob) -> None:
    pids = [machine.main_pid(unit.name) for unit in UNITS]
    assert deploy(job).status == "unchanged"
    assert [machine.main_pid(unit.name) for unit in UNITS] == pids


def test_upgrade_keeps_the_gap_of_sessions_under_its_limit(
    machine: Machine, job: ReleaseJob, agent: None, tmp_path: Path
) -> None:
    before = machine.main_pid(units.INTERMEDIATE.name)
    with Pings() as pings:
        pings.wait(20)
        assert deploy(replace(job, bundle=another(job.bundle, tmp_path))).status == "upgraded"
        pings.wait(20)
    assert machine.main_pid(units.INTERMEDIATE.name) != before
    print(f"longest gap {pings.longest_gap_s():.2f} s")
    assert 0.2 < pings.longest_gap_s() < GAP_LIMIT_S


def test_new_certificate_of_the_relay_is_taken_without_a_restart(
    machine: Machine, job: ReleaseJob, agent: None
) -> None:
    deploy(job)
    before = machine.main_pid(units.INTERMEDIATE.name)
    renewed = {**job.files, "intermediate": role_files(machine.address)["intermediate"]}
    with Pings() as pings:
        pings.wait(20)
        assert deploy(replace(job, files=renewed)).status == "reloaded"
        pings.wait(20)
    assert machine.main_pid(units.INTERMEDIATE.name) == before
    assert pings.longest_gap_s() < 1.0


def relay_status(machine: Machine) -> str:
    """What `ztna relay status` says of the relay on the machine."""
    config = f"{units.CONFIG_DIR}/intermediate/intermediate.json"
    return machine.run(units.LAUNCHER, "relay", "status", "--config", config)


def test_the_relay_is_switched_by_its_socket_below_run(machine: Machine, job: ReleaseJob, agent: None) -> None:
    deploy(job)
    assert machine.run("stat", "--format=%U %a", units.ADMIN_SOCKET) == "ztna 600"
    assert machine.run("stat", "--format=%U %a", str(Path(units.ADMIN_SOCKET).parent)) == "ztna 700"
    with Pings() as pings:
        pings.wait(5)
    # The connector dials over loopback, and the agent is on another host: the relay takes both.
    assert relay_status(machine).startswith("relay on, back end userspace, 1 of 1 sessions relayed")
    assert "127.0.0.1:" in relay_status(machine)


def test_the_kernel_relays_where_the_unit_may_and_the_firewall_lets_its_mark_through(
    machine: Machine, job: ReleaseJob, agent: None
) -> None:
    setup = cloudinit.HostSetup(
        hostname="relay",
        admin_public_keys=[rig.ADMIN.public],
        host_keys=cloudinit.HostKeys(private=rig.BOOTSTRAP.private, public=rig.BOOTSTRAP.public),
        udp_ports=(4433, 4434),
        admin_cidrs=(),
        tcp_ports=(22,),
    )
    (machine.root / cloudinit.NFT_PATH.lstrip("/")).write_text(cloudinit.firewall(setup))
    forwarding = tuple(units.FORWARDING_INTERMEDIATE if unit is units.INTERMEDIATE else unit for unit in UNITS)
    # Settings of the network belong to its namespace; the container itself sees them read-only.
    run("ip", "netns", "exec", machine.name, "sysctl", "-w", "net.ipv4.ip_forward=1")
    sysctls = {"net.ipv4.ip_forward": units.FORWARDING_SYSCTLS["net.ipv4.ip_forward"]}
    with Pings() as pings:
        pings.wait(20)
        deploy(replace(job, units=forwarding, sysctls=sysctls))
        pings.wait(20)
    assert relay_status(machine).startswith("relay on, back end kernel")
    capabilities = machine.run("grep", "CapEff", f"/proc/{machine.main_pid(units.INTERMEDIATE.name)}/status")
    assert int(capabilities.split()[1], 16) == 1 << CAP_NET_ADMIN
    assert "ztna_relay_4433" in machine.run("nft", "list", "tables")
    deploy(job)
    assert "ztna_relay_4433" not in machine.run("nft", "list", "tables"), "nothing of it is left"
