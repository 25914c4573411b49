"""Collect the witnesses of a path from a running stack, decide, and write the verdict with its evidence.

settle -> capture outside each NAT { records, counters, burst, counters, records } -> relay off { burst } -> decide
"""

import datetime
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from infra.outputs import RelayEndpoint, ServiceOutput, StackOutputs
from infra.verify.burst import send
from infra.verify.capture import capturing, find_points
from infra.verify.context import Context, Json, VerifyError
from infra.verify.held import Held, NotUndone
from infra.verify.pcap import carried, read_pcap
from infra.verify.places import chosen, role_command, status_page, status_pages
from infra.verify.proof import Burst, Finding, Records, Seen, Witnesses, decide
from infra.verify.sessions import (
    RelaySession,
    SessionRecord,
    find_session,
    host_of,
    port_of,
    read_relay,
    read_sessions,
)

SCHEMA_VERSION: Final = 1
REQUESTS: Final = 200
_WINDOW_REQUESTS: Final = 40
_WINDOW_LIMIT_S: Final = 60.0
_SETTLE_S: Final = 15.0
_STABLE_S: Final = 2.0
_BACK_S: Final = 30.0

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Proof:
    """The verdict with where it was written."""

    finding: Finding
    report: Json
    path: Path

    @property
    def exit_code(self) -> int:
        """Of the verdict."""
        return self.finding.exit_code


@dataclass(slots=True)
class _Ends:
    """One reading of the three roles."""

    agent: Json
    connector: Json
    relay: Json
    here: SessionRecord | None = None
    there: SessionRecord | None = None
    carried: RelaySession | None = None


@dataclass(slots=True)
class Collector:
    """Asks the witnesses, one method each; everything it sees is kept as evidence."""

    context: Context
    service: ServiceOutput
    directory: Path
    on_step: OnStep
    evidence: list[Json] = field(default_factory=list)

    @property
    def relay(self) -> RelayEndpoint:
        return self.context.outputs.relays[0]

    def keep(self, name: str, value: Any) -> None:
        """Write a file of evidence and remember its digest."""
        path = self.directory / name
        path.write_text(json.dumps(value, indent=1, default=str) + "\n")
        self.keep_file(path)

    def keep_file(self, path: Path) -> None:
        """Remember the digest of a file of evidence."""
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.evidence.append({"name": path.name, "sha256": digest, "path": str(path)})

    def look(self) -> _Ends:
        """Ask all three roles at once."""
        context = self.context
        agent, connector, relay_page = status_pages(
            context, context.agent_place, context.connector_place, context.relay_place
        )
        ends = _Ends(agent, connector, relay_page)
        ends.here = find_session(read_sessions(ends.agent), self.service.id, context.connector.name)
        ends.there = find_session(read_sessions(ends.connector), self.service.id, context.agent.name)
        relay = read_relay(ends.relay)
        session = ends.here or ends.there
        ends.carried = relay.session(session.session) if relay is not None and session is not None else None
        return ends

    def settle(self) -> None:
        """Send a little until the agent's path has not changed for a while: the first packet makes the session."""
        deadline = time.monotonic() + _SETTLE_S
        last, since = "", time.monotonic()
        while time.monotonic() < deadline:
            answered = send(self.context, self.service, 3, brief=True).burst.answered
            here = self.look().here
            path = f"{here.path} {here.peer_address}" if here is not None else ""
            if path != last:
                last, since = path, time.monotonic()
            if answered and path and time.monotonic() - since >= _STABLE_S:
                return
            time.sleep(0.1)

    def burst(self, requests: int) -> tuple[Burst, Records, tuple[Seen, ...], int | None]:
        """The burst with the captures, records and counters around it."""
        context, directory = self.context, self.directory
        sides = (("agent", context.agent_place), ("connector", context.connector_place))
        points = find_points(context, sides, self.relay.host)
        self.on_step(f"capture at {', '.join(point.place for point in points) or 'no place'}")
        with capturing(context, points, directory) as files:
            before = self.look()
            self.on_step(f"burst of {requests} requests through {self.service.id}")
            traffic = send(context, self.service, requests)
            after = self.look()
        for name, ends in (("before", before), ("after", after)):
            for role in ("agent", "connector", "relay"):
                self.keep(f"{role}-{name}.json", getattr(ends, role))
        self.keep("burst.json", traffic.parts)
        seen = []
        for point, path in files.items():
            self.keep_file(path)
            seen.append(self._seen(point.side, f"{point.place} {point.interface}", path, before))
        records = Records(_paths(before.here, after.here), _paths(before.there, after.there))
        return traffic.burst, records, tuple(seen), _grown(before.carried, after.carried)

    def _seen(self, side: str, name: str, path: Path, ends: _Ends) -> Seen:
        """What one capture saw, by far ends as the relay and the outputs know them; the ends' own word is not asked."""
        other = "connector" if side == "agent" else "agent"
        place = self.context.place(self.context.connector_place if side == "agent" else self.context.agent_place)
        known = getattr(ends.carried, f"{other}_address", None)
        peers = {address for address in (host_of(known), place.nat.public_address if place.nat else None) if address}
        # Without a relay's view of it and without a NAT, its own address is what the world sees.
        peers = peers or {place.address}
        relays = {address for address in (self.relay.host, self.relay.alternate_host) if address}
        relay_ports = {port for port in (self.relay.port, self.relay.alternate_port) if port}
        own_port = port_of(getattr(ends.carried, f"{side}_address", None))
        packets = read_pcap(path.read_bytes())
        found = carried(packets, peers=peers, relays=relays, relay_ports=relay_ports, own_port=own_port)
        return Seen(name, found.direct_bytes, found.relay_bytes)

    def window(self) -> Burst | None:
        """Requests while the relay is off; None where it cannot be switched."""
        place = self.context.place(self.context.relay_place)
        if not place.config_path:
            return None
        switch = (*role_command(place), "relay")
        config = ("--config", place.config_path)
        off = Held(
            "switching the relay off",
            place.exec,
            (*switch, "off", *config),
            (*switch, "on", *config),
            limit_s=_WINDOW_LIMIT_S,
        )
        was = self.look().carried
        self.on_step("the relay is off for a moment")
        try:
            with off:
                traffic = send(self.context, self.service, _WINDOW_REQUESTS, brief=True)
                self.keep("window.json", {"relay": status_page(self.context, self.context.relay_place)} | traffic.parts)
        except NotUndone:
            raise
        except VerifyError as error:
            self.keep("window.json", {"error": str(error)})
            return None
        if was is not None and was.ready:
            self._wait_back()
        return traffic.burst

    def _wait_back(self) -> None:
        """Leave the session with its relay path, as it was found."""
        deadline = time.monotonic() + _BACK_S
        while time.monotonic() < deadline:
            carried_now = self.look().carried
            if carried_now is not None and carried_now.ready:
                return
            time.sleep(0.2)


def prove(
    outputs: StackOutputs,
    agent: str,
    service: str,
    directory: Path,
    *,
    requests: int = REQUESTS,
    window: bool = True,
    on_step: OnStep = lambda _: None,
    context: Context | None = None,
) -> Proof:
    """Prove by which path an agent reaches a service.

    Args:
        outputs: what the stack exported.
        agent: its name.
        service: its id.
        directory: where reports of the stack go; the verdict becomes `proof-AGENT-SERVICE.json` there.
        requests: extent of the burst.
        window: whether the relay may be switched off for a moment.
        on_step: told what is being done.
        context: how to reach the stack; replaced by tests.

    Raises:
        OutputsError: no such agent or service.
        VerifyError: the burst could not be sent.
        NotUndone: the relay could not be switched on again.
    """
    reduced = chosen(outputs, agent, service)
    context = context or Context(reduced)
    context.outputs = reduced
    name = f"proof-{agent}-{service}"
    kept = directory / name
    kept.mkdir(parents=True, exist_ok=True)
    collector = Collector(context, reduced.service(service), kept, on_step)
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    collector.settle()
    burst, records, captures, grown = collector.burst(requests)
    off = collector.window() if window else None
    finding = decide(Witnesses(burst, records, captures, grown, off))
    report = {
        "schema_version": SCHEMA_VERSION, "stack": outputs.stack, "run": outputs.run, "agent": agent,
        "service": service, "connector": context.connector.name, "started_at": started_at, **finding.to_json(),
        "exit_code": finding.exit_code, "evidence": collector.evidence,
    }  # fmt: skip
    path = directory / f"{name}.json"
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(report, indent=1) + "\n")
    beside.replace(path)
    return Proof(finding, report, path)


def _paths(before: SessionRecord | None, after: SessionRecord | None) -> tuple[str | None, str | None]:
    return (before.path if before is not None else None, after.path if after is not None else None)


def _grown(before: RelaySession | None, after: RelaySession | None) -> int | None:
    """Bytes carried in between; None where the relay does not know the session at both times, or it is another one."""
    if before is None or after is None or before.session != after.session or after.bytes < before.bytes:
        return None
    return after.bytes - before.bytes
