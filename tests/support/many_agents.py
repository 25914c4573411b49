"""Program: many agents echo through one relay at once. `python -m tests.support.many_agents SPEC.json` prints JSON.

SPEC: {"bind": address, "profiles": [agent.json...], "services": [[id, port]...], "packets": total}. Every payload names
its agent, service and number; an answer that reaches another agent, or comes from another service's address, is
misrouted. All agents use the same inner source port, which only their virtual addresses tell apart.
"""

import asyncio
import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.v1_clients import Client, Clients, Profile
from ztna.proto import packet

_PAYLOAD = struct.Struct("!HHI")
SOURCE_PORT = 5000
WINDOW = 32
TRIES = 8


class Tally:
    """Which packets came back to whom."""

    def __init__(self, profiles: list[Profile], services: list[tuple[str, int]]) -> None:
        self.services = services
        self.numbers = {profile.name: number for number, profile in enumerate(profiles)}
        self.waiting: list[set[tuple[int, int]]] = [set() for _ in profiles]
        self.returned = self.misrouted = self.repeated = self.malformed = 0
        self.arrived = asyncio.Event()

    def take(self, profile: Profile, data: bytes) -> None:
        """One packet delivered to a client of this profile."""
        ip = packet.parse_ipv4(data)
        udp = packet.parse_udp(ip.source, ip.destination, ip.payload) if ip is not None else None
        if ip is None or udp is None or len(udp.payload) < _PAYLOAD.size:
            self.malformed += 1
            return
        agent, service, number = _PAYLOAD.unpack_from(udp.payload)
        mine = self.numbers[profile.name]
        name, port = self.services[service] if service < len(self.services) else ("", 0)
        right_source = profile.services.get(name) == ip.source and udp.source_port == port
        right_target = ip.destination == profile.virtual_ip and udp.destination_port == SOURCE_PORT
        if agent != mine or not right_source or not right_target:
            self.misrouted += 1
            return
        if (service, number) in self.waiting[mine]:
            self.waiting[mine].discard((service, number))
            self.returned += 1
            self.arrived.set()
        else:
            self.repeated += 1


async def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Connect all agents, let them all echo at once, count."""
    profiles = [Profile.from_json(value) for value in spec["profiles"]]
    tally = Tally(profiles, [(name, port) for name, port in spec["services"]])
    clients = Clients(spec["bind"], lambda client, data: tally.take(client.profile, data))
    started = time.monotonic()
    agents = await asyncio.gather(*(clients.connect(profile) for profile in profiles))
    connected_s = time.monotonic() - started
    per_agent = spec["packets"] // len(agents)
    lost = await asyncio.gather(*(_echo_all(tally, number, agent, per_agent) for number, agent in enumerate(agents)))
    seconds = time.monotonic() - started - connected_s
    await clients.close()
    sent = per_agent * len(agents)
    return {
        "agents": len(agents), "services": len(tally.services), "sent": sent, "returned": tally.returned,
        "misrouted": tally.misrouted, "malformed": tally.malformed, "repeated": tally.repeated, "given_up": sum(lost),
        "registered": sum(len(agent.registered) for agent in agents), "connected_s": round(connected_s, 2),
        "seconds": round(seconds, 2), "packets_per_s": round(tally.returned / seconds, 1), "problems": clients.problems,
    }  # fmt: skip


async def _echo_all(tally: Tally, number: int, client: Client, count: int) -> int:
    """Send `count` packets in windows, over the services in turn; resend what is missing. Packets given up."""
    given_up = 0
    for start in range(0, count, WINDOW):
        window = {
            (index % len(tally.services), index): _PAYLOAD.pack(number, index % len(tally.services), index)
            for index in range(start, min(start + WINDOW, count))
        }
        tally.waiting[number] |= set(window)
        for _ in range(TRIES):
            for service, index in sorted(tally.waiting[number]):
                name, port = tally.services[service]
                data = client.wrap_udp(name, SOURCE_PORT, port, window[service, index] + bytes(56))
                client.peer.send_datagram(data)
            if await _settled(tally, number, 0.5):
                break
        given_up += len(tally.waiting[number])
        tally.waiting[number].clear()
    return given_up


async def _settled(tally: Tally, number: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while tally.waiting[number]:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        tally.arrived.clear()
        try:
            await asyncio.wait_for(tally.arrived.wait(), min(remaining, 0.05))
        except TimeoutError:
            continue
    return True


def main() -> None:
    """Run the command line."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    json.dump(asyncio.run(run(spec)), sys.stdout)


if __name__ == "__main__":
    main()
