"""A report with known contents and a stack whose places answer what a test tells them to."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from infra.outputs import (
    AgentOutput,
    ConnectorOutput,
    NatOutput,
    Place,
    RelayEndpoint,
    ServiceOutput,
    ServicePort,
    StackOutputs,
)
from infra.verify.context import Context, Finished
from infra.verify.model import (
    CheckResult,
    LatencySeries,
    NatObservation,
    Report,
    Result,
    Status,
    ThroughputSeries,
)

TOPOLOGY: dict[str, Any] = {
    "segments": [
        {"name": "public", "cidr": "172.20.0.0/24"},
        {"name": "agent-lan", "cidr": "172.21.0.0/24"},
        {"name": "connector-lan", "cidr": "172.22.0.0/24"},
    ],
    "routers": [
        {
            "name": "nat-agent",
            "inside": [{"segment": "agent-lan", "address": "172.21.0.1/24"}],
            "outside": {"segment": "public", "address": "172.20.0.21/24", "up": {"delay_ms": 5.0, "loss": 0.03}},
            "nat": [{"mapping": "endpoint-independent", "filtering": "address-and-port-dependent"}],
        },
        {
            "name": "nat-connector",
            "inside": [{"segment": "connector-lan", "address": "172.22.0.1/24"}],
            "outside": {"segment": "public", "address": "172.20.0.22/24"},
        },
    ],
    "hosts": [
        {"name": "relay", "links": [{"segment": "public", "address": "172.20.0.2/24"}]},
        {"name": "agent", "links": [{"segment": "agent-lan", "address": "172.21.0.10/24"}]},
        {"name": "connector", "links": [{"segment": "connector-lan", "address": "172.22.0.10/24"}]},
        {"name": "backend", "links": [{"segment": "connector-lan", "address": "172.22.0.20/24"}]},
    ],
}

NAT = NatOutput(
    name="nat-agent",
    mapping="endpoint-independent",
    filtering="address-and-port-dependent",
    public_address="172.20.0.21",
)


def outputs(**changes: Any) -> StackOutputs:
    """The lab's outputs in small: one relay, connector and agent, an echo and an HTTP service."""
    values: dict[str, Any] = {
        "stack": "lab",
        "run": "r1",
        "rung": "root",
        "relays": (
            RelayEndpoint(name="relay", host="172.20.0.2", port=4433, server_name="ztna-server", place="relay"),
        ),
        "connectors": (ConnectorOutput(name="connector", services=("echo-service", "http-app"), place="connector"),),
        "services": (
            ServiceOutput(
                id="echo-service",
                virtual_ip="100.64.0.100",
                ports=(ServicePort(protocol="udp", port=9999), ServicePort(protocol="tcp", port=9999)),
                connector="connector",
                backend="172.22.0.20:9999",
                untunnelled=("udp:172.20.0.9:9999",),
            ),
            ServiceOutput(
                id="http-app",
                virtual_ip="100.64.0.101",
                ports=(ServicePort(protocol="tcp", port=80),),
                connector="connector",
                backend="172.22.0.20:8080",
            ),
        ),
        "agents": (
            AgentOutput(
                name="agent",
                virtual_ip="100.64.1.1",
                services=("echo-service", "http-app"),
                mode="tun",
                place="agent",
                profile=json.dumps({"name": "agent", "services": [], "virtual_ip": "100.64.1.1"}),
            ),
        ),
        "places": {
            "relay": place("intermediate", "172.20.0.2", 9090),
            "agent": place("agent", "172.21.0.10", 9092, NAT),
            "connector": place("connector", "172.22.0.10", 9091),
            "backend": Place(kind="backend", address="172.22.0.20", exec=("in", "backend")),
        },
        "ca_pem": "",
        "probes": {"foreign-connector": json.dumps({"services": [{"id": "echo-service"}]})},
        "topology": {},
    }
    return StackOutputs(**(values | changes))


def place(kind: Any, address: str, port: int, nat: NatOutput | None = None) -> Place:
    controls: dict[str, tuple[str, ...]] = {
        verb: ("control", verb, kind) for verb in ("start", "stop", "kill", "restart")
    }
    url = f"http://127.0.0.1:{port}/status"
    return Place(kind=kind, address=address, exec=("in", kind), controls=controls, status_url=url, nat=nat)


class FakePlaces:
    """Stands for commands in places: `answers` maps a word of the command to what it prints."""

    def __init__(self, answers: dict[str, Any | Callable[[Sequence[str]], Any]]) -> None:
        self.answers = answers
        self.commands: list[tuple[str, ...]] = []

    def __call__(self, argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Finished:
        self.commands.append(tuple(argv))
        for word, answer in self.answers.items():
            if any(word in part for part in argv):
                value = answer(argv) if callable(answer) else answer
                return value if isinstance(value, Finished) else Finished(0, json.dumps(value), "")
        return Finished(1, "", f"no answer for {' '.join(argv)}")


def context(answers: dict[str, Any], *, quick: bool = False, **changes: Any) -> Context:
    return Context(outputs(**changes), quick=quick, runner=FakePlaces(answers), python="python")


def report() -> Report:
    """One check of each status, with all kinds of series."""
    latency = (
        LatencySeries("overlay", "through the relay", 64, 1, tuple(800.0 + index for index in range(200))),
        LatencySeries("untunnelled", "plain UDP", 64, 0, tuple(50.0 + index / 10 for index in range(200))),
    )
    throughput = (
        ThroughputSeries("overlay", "through the relay", 1200, 7000.0, 67.2, 3, 14003, (700, 690, 710)),
        ThroughputSeries("untunnelled", "plain UDP", 1200, 50000.0, 480.0, 0, 100000, (5000, 5000)),
    )
    nat = NatObservation(
        "agent", NAT.mapping, NAT.filtering, NAT.mapping, NAT.filtering, "172.20.0.21", "172.20.0.21:5000", (5000, 5000)
    )
    results = (
        CheckResult("latency", "Latency", Result(Status.PASSED, "0.9 ms", "< 2 ms", latency=latency), 1.5),
        CheckResult("throughput", "Throughput", Result(Status.PASSED, "7,000", "6,000", throughput=throughput), 2.0),
        CheckResult("nat", "NAT", Result(Status.PASSED, "EIM", "EIM", nat=(nat,)), 2.0),
        CheckResult("bad", "Echo <b>|", Result(Status.FAILED, "3 of 4 <i>", "4 of 4", "one & lost"), 0.1),
        CheckResult("dim", "Ping", Result(Status.NOT_SHOWN, "not shown", "-", "user mode"), 0.0),
        CheckResult("err", "HTTP", Result(Status.ERROR, "could not run", "-", "no such place"), 0.0),
    )
    return Report(
        stack="lab", run="r1", started_at="2026-01-01T00:00:00+00:00", seconds=7.4,
        conditions={"rung": "root", "kernel": "6.1"},
        services=({"id": "echo-service", "virtual_ip": "100.64.0.100", "ports": ["udp/9999"], "backend": "b:9999",
                   "untunnelled": []},),
        results=results, limits=("no NAT here",), topology=TOPOLOGY,
    )  # fmt: skip
