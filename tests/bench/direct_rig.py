"""The rig of `tests.bench.direct`: a bed whose agent and connector both use a TUN device, beside nebula and nothing."""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from infra.outputs import ServiceOutput
from tests.bench import nebula
from tests.support.bed import ADDRESSES, AGENT, CONNECTOR, RELAY, Bed, BedError, Service

IPERF_PORT: Final = 5201
IPERF: Final = Service("iperf", "100.64.0.100", {("tcp", IPERF_PORT): IPERF_PORT, ("udp", IPERF_PORT): IPERF_PORT})
HOSTS: Final = (AGENT, RELAY, CONNECTOR)
NEBULA: Final = "nebula"
RAW: Final = "raw"
TRIES: Final = 3
PATH_S: Final = 20.0

_BLOCK: Final = """
table inet block {{
  chain leave {{ type filter hook output priority 0; ip daddr {peer} udp dport != {port} drop; }}
  chain arrive {{ type filter hook input priority 0; ip saddr {peer} udp sport != {port} drop; }}
}}
"""


class TunBed(Bed):
    """A bed whose one service is iperf3 on the connector's own host, behind the service's virtual address."""

    def service_outputs(self) -> list[ServiceOutput]:
        local = f"127.0.0.1:{IPERF_PORT}"
        return [
            replace(output, backend=local, port_backends=dict.fromkeys(output.port_backends, local))
            for output in Bed.service_outputs(self)
        ]


class Rig:
    """All ways from the agent's host to iperf3 on the connector's, one path at a time.

    Args:
        path: "direct", or "relay": then UDP between the two hosts is dropped, for nebula as for us.
    """

    def __init__(self, name: str, directory: Path, path: str) -> None:
        self.path = path
        self.bed = TunBed(name, directory, services=(IPERF,), run_agent=False)
        self.core = ""
        self.session: Mapping[str, Any] = {}
        self.nebula: nebula.Nebula | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.bed)
        try:
            if self.path == "relay":
                self._block()
            self.bed.lab.spawn(
                CONNECTOR, "iperf3", ["iperf3", "-s", "-p", str(IPERF_PORT)], log_path=self.bed.path("iperf3.log")
            )
            if nebula.missing() is None:
                underlay = {host: ADDRESSES[host] for host in HOSTS}
                self.nebula = nebula.Nebula(
                    self.bed.lab, self.bed.path("nebula"), underlay, relayed=self.path == "relay"
                )
                self.nebula.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _block(self) -> None:
        # iperf3's own datagrams of the baseline pass.
        rules = self.bed.path("block.nft")
        rules.write_text(_BLOCK.format(peer=ADDRESSES[CONNECTOR], port=IPERF_PORT))
        self.bed.lab.run(AGENT, ["nft", "-f", str(rules)])

    def choose(self, core: str) -> None:
        """Start agent and connector anew with this QUIC core, and wait until the session is on the path wanted."""
        bed = self.bed
        for role, name in ((AGENT, "agent"), (CONNECTOR, "connector")):
            if role in bed.processes:
                bed.lab.stop(role, name)
            path = bed.path(f"{name}.json")
            more = {"gateway": "tun"} if role == CONNECTOR else {}
            path.write_text(json.dumps({**json.loads(path.read_text()), "quic_core": core, **more}))
        for role in (CONNECTOR, AGENT):
            bed.start(role)
            bed.wait_ready(role)
        self.core = core
        deadline = time.monotonic() + PATH_S
        while time.monotonic() < deadline:
            sessions = bed.status(AGENT)["sessions"]
            if sessions and sessions[0]["path"] == self.path and sessions[0]["core"] == core:
                self.session = sessions[0]
                return
            time.sleep(0.2)
        raise BedError(f"the session is not on the {self.path} path with {core}: {bed.status(AGENT)['sessions']}")

    def target(self, system: str) -> str:
        """The address of iperf3 by one system: "nebula", "raw", or a QUIC core that was chosen."""
        if system == NEBULA:
            return nebula.ADDRESSES[CONNECTOR]
        return ADDRESSES[CONNECTOR] if system == RAW else IPERF.virtual_ip

    def cpu_s(self, system: str, host: str) -> float:
        """CPU seconds that a system's process in a host has used."""
        if system == NEBULA:
            assert self.nebula is not None
            return self.nebula.cpu_s(host)
        return 0.0 if system == RAW else self.bed.cpu_s(host)

    def iperf(self, system: str, *arguments: object, seconds: float) -> dict[str, Any]:
        """One run of iperf3 from the agent's host; its JSON."""
        argv = [
            "iperf3", "-J", "-c", self.target(system), "-p", IPERF_PORT, "-t", f"{seconds:g}",
            "--connect-timeout", 5000, *arguments,
        ]  # fmt: skip
        for _ in range(TRIES):
            done = self.bed.lab.run(AGENT, list(map(str, argv)), timeout_s=seconds + 30, check=False)
            seen: dict[str, Any] = json.loads(done.stdout or "{}")
            if "error" not in seen and seen:
                return seen
            # The server opens its port anew after each run, and a client that comes meanwhile is reset.
            time.sleep(1.0)
        raise BedError(f"iperf3 by {system}: {seen.get('error', done.stderr.strip())}")

    def tcp(self, system: str, seconds: float, *, reverse: bool = False) -> float:
        """Mbit/s of one TCP connection, as received."""
        seen = self.iperf(system, *(["-R"] if reverse else []), seconds=seconds)
        return round(float(seen["end"]["sum_received"]["bits_per_second"]) / 1e6, 1)

    def udp(self, system: str, rate: float, size: int, seconds: float) -> dict[str, float]:
        """Packets/s of `size` bytes that arrived when `rate` were offered, counted at the receiver; 0: no limit."""
        bits = "0" if not rate else f"{rate * size * 8:.0f}"
        seen = self.iperf(system, "-u", "-b", bits, "-l", size, "--get-server-output", seconds=seconds)
        server = seen["server_output_json"]["end"]["sum"] if "server_output_json" in seen else seen["end"]["sum"]
        delivered = server["packets"] - server["lost_packets"]
        sent = seen["end"]["sum"]["packets"]
        return {
            "offered": rate, "sent_per_s": sent / seconds, "per_s": delivered / seconds, "delivered": delivered,
            "loss": 1 - delivered / max(sent, 1),
        }  # fmt: skip
