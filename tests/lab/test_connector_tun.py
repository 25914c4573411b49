"""A connector in TUN mode with real processes: the kernel of its host carries what agents send."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from infra import ports
from infra.outputs import ServiceOutput
from tests.support.bed import ADDRESSES, AGENT, BACKEND, CONNECTOR, ECHO, Bed, Service

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.tun]

BESIDE = Service("beside", "100.64.0.101", {("udp", ports.ECHO): ports.ECHO, ("tcp", ports.ECHO): ports.ECHO})
EVERY_PORT = Service("every-port", "100.64.0.102", {("tcp", 1): ports.ECHO})
SIZES = "1,64,512,1200,1350,4000,9000"


class TunBed(Bed):
    """`ECHO` is on another host, `BESIDE` and `EVERY_PORT` on the connector's own."""

    def service_outputs(self) -> list[ServiceOutput]:
        local = f"127.0.0.1:{ports.ECHO}"
        return [
            output if output.id == ECHO.id
            else replace(output, backend=local, port_backends=dict.fromkeys(output.port_backends, local))
            for output in Bed.service_outputs(self)
        ]  # fmt: skip

    def _write(self, name: str, config: Mapping[str, Any], owner: str | None = None) -> None:
        if name == "connector.json":
            services = [
                {**service, "ports": None} if service["id"] == EVERY_PORT.id else service
                for service in config["services"]
            ]
            config = {**config, "gateway": "tun", "services": services}
        Bed._write(self, name, config, owner)

    def spawn_local_echo(self) -> None:
        """An echo beside the connector, on every address: its answers must come from the one that was asked."""
        argv = [sys.executable, "-m", "infra.echo", "--bind", "0.0.0.0", "--port", str(ports.ECHO)]
        self.lab.spawn(CONNECTOR, "echo", argv, log_path=self.path("echo-beside.log"))

    def session_is_ready(self) -> bool:
        return any(session["state"] == "ready" for session in self.status(AGENT)["sessions"])

    def left_behind(self) -> dict[str, object]:
        """What the connector's host has of this mode."""
        run = self.lab.run
        tables = run(CONNECTOR, ["nft", "list", "tables"]).stdout.split()
        links = json.loads(run(CONNECTOR, ["ip", "-j", "link"]).stdout)
        return {
            "tables": [word for word in tables if word.startswith("ztna_connector")],
            "devices": [link["ifname"] for link in links if link["ifname"].startswith("ztnac")],
            "forwarding": run(CONNECTOR, ["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout.strip(),
        }


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TunBed]:
    directory = tmp_path_factory.mktemp("tun-bed")
    with TunBed(f"test-ctun-{os.getpid()}", directory, services=(ECHO, BESIDE, EVERY_PORT)) as made:
        made.spawn_local_echo()
        wait(made.session_is_ready)
        wait(lambda: tcp_outcome(made, CONNECTOR, f"127.0.0.1:{ports.ECHO}") == "connected")
        yield made


def wait(condition: Any, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.1)


def tcp_outcome(bed: TunBed, host: str, target: str) -> str:
    return str(bed.probe(host, "tcp-refused", "--target", target)["outcome"])


def echoes(bed: TunBed, service: Service) -> Any:
    return bed.probe(AGENT, "udp-echo", "--target", f"{service.virtual_ip}:{ports.ECHO}", "--sizes", SIZES,
                     "--count", 3, "--tries", 2)  # fmt: skip


@pytest.mark.parametrize("service", [ECHO, BESIDE], ids=["on another host", "on the connector's"])
def test_udp_of_every_size_comes_back(bed: TunBed, service: Service) -> None:
    seen = echoes(bed, service)
    assert (seen["equal"], seen["altered"]) == (seen["sent"], 0), seen


@pytest.mark.parametrize(
    ("service", "port"), [(ECHO, ports.ECHO), (BESIDE, ports.ECHO), (EVERY_PORT, 4711)],
    ids=["on another host", "on the connector's", "any port of a service without a list"],
)  # fmt: skip
def test_tcp_carries_bytes_both_ways(bed: TunBed, service: Service, port: int) -> None:
    seen = bed.probe(AGENT, "tcp-echo", "--target", f"{service.virtual_ip}:{port}", "--bytes", 3_000_000)
    assert seen["equal"], seen


@pytest.mark.parametrize("service", [ECHO, BESIDE])
def test_ping_is_answered(bed: TunBed, service: Service) -> None:
    assert len(bed.ping(AGENT, service.virtual_ip, 5, 0.05)) == 5


@pytest.mark.parametrize("service", [ECHO, BESIDE])
def test_a_port_that_is_not_admitted_is_refused_at_once(bed: TunBed, service: Service) -> None:
    # 22 and 9091 may well have listeners: not for agents.
    for port in (ports.ECHO + 1, ports.METRICS["connector"]):
        seen = bed.probe(AGENT, "tcp-refused", "--target", f"{service.virtual_ip}:{port}")
        assert seen["outcome"] == "reset", seen
        assert seen["seconds"] < 1


def test_only_services_are_reached_through_the_device(bed: TunBed) -> None:
    """An agent that routes more than its services gets no further: neither this host nor what lies behind it."""
    device = bed.status(AGENT)["device"]
    for address in ("127.0.0.1", ADDRESSES[BACKEND], "100.64.0.250"):
        bed.lab.run(AGENT, ["ip", "rule", "add", "to", f"{address}/32", "lookup", "77", "pref", "1"], check=False)
        bed.lab.run(AGENT, ["ip", "route", "add", "default", "dev", device, "table", "77"], check=False)
        done = bed.lab.run(AGENT, ["ping", "-n", "-c", "1", "-W", "1", "-I", device, address], check=False)
        bed.lab.run(AGENT, ["ip", "rule", "del", "pref", "1"], check=False)
        assert done.returncode != 0, address


def test_nobody_beside_the_connector_reaches_an_agent(bed: TunBed) -> None:
    bed.lab.run(BACKEND, ["ip", "route", "add", "100.64.0.0/10", "via", ADDRESSES[CONNECTOR]])
    try:
        for host in (BACKEND, CONNECTOR):
            done = bed.lab.run(host, ["ping", "-n", "-c", "1", "-W", "1", "100.64.1.1"], check=False)
            assert done.returncode != 0, host
    finally:
        bed.lab.run(BACKEND, ["ip", "route", "del", "100.64.0.0/10"])


def test_agents_checksums_are_left_to_the_kernels(bed: TunBed) -> None:
    """Offloads are in use where the kernel has them, and nothing was lost on the way into it."""
    metrics = bed.lab.run(CONNECTOR, ["curl", "-s", bed.url(CONNECTOR, "metrics")]).stdout
    lines = [line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("ztna_connector_tun_")]
    values = {name: float(value) for name, value in lines}
    assert not [name for name, value in values.items() if "write_error" in name and value], values
    assert values["ztna_connector_tun_written_packets_total"] > values["ztna_connector_tun_write_calls_total"]


def test_nothing_stays_behind_and_a_killed_one_is_cleared_up_after(bed: TunBed) -> None:
    alone = {"tables": [], "devices": [], "forwarding": "0"}
    present = bed.left_behind()
    assert (len(present["tables"]), len(present["devices"]), present["forwarding"]) == (1, 1, "1")  # type: ignore[arg-type]
    bed.kill(CONNECTOR, signal.SIGKILL)
    wait(lambda: not bed.alive(CONNECTOR))
    wait(lambda: not bed.left_behind()["devices"])
    assert len(bed.left_behind()["tables"]) == 1  # type: ignore[arg-type]
    bed.start(CONNECTOR)
    bed.wait_ready(CONNECTOR)
    wait(lambda: echoes_once(bed))
    assert len(bed.left_behind()["tables"]) == 1  # type: ignore[arg-type]
    bed.lab.stop(CONNECTOR, "connector")
    assert bed.left_behind() == alone
    bed.start(CONNECTOR)
    bed.wait_ready(CONNECTOR)
    wait(lambda: echoes_once(bed))


def echoes_once(bed: TunBed) -> bool:
    """Whether agents are served again, by the service on another host."""
    seen = bed.probe(AGENT, "udp-echo", "--target", f"{ECHO.virtual_ip}:{ports.ECHO}", "--sizes", "64", "--count", 1)
    return bool(seen["equal"] == 1)
