"""The agent's TUN mode: the kernel is the local side.

Packets are read in batches, each goes to the session of its service, and every session used transmits once. While no
way has room the device is not read: its queue is where packets wait and, when that is full, are lost, which is what TCP
expects of a link.
"""

from collections.abc import Sequence
from socket import inet_aton
from typing import TYPE_CHECKING, Any, Final

from ztna.io.metrics import Sample, counters_of
from ztna.io.session.session import Session
from ztna.io.session.session_types import UNFINISHED_CHECKSUMS
from ztna.io.tun import MAX_BATCH_PACKETS, MIN_MTU_BYTES, TunDevice
from ztna.io.udp import PAUSE_S

RESUME_ROOM: Final = 32
"""Packets that must find room before the device is read again: batches of a few cost several times as much each."""

if TYPE_CHECKING:
    from ztna.io.agent import Agent


class TunSide:
    """See the module; the methods are those of `ztna.io.agent.LocalSide`."""

    def __init__(self, agent: "Agent", device: TunDevice) -> None:
        self._agent = agent
        self._device = device
        self._paused = False
        self._asked_at = 0.0

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What sessions may tell their peers."""
        return (UNFINISHED_CHECKSUMS,) if self._device.offload else ()

    def start(self) -> None:
        """Read packets of the kernel from now on."""
        self._device.start(self._agent.loop, self._readable)
        self._agent.log.info("tun_up", device=self._device.name, mtu_bytes=self._device.mtu_bytes)

    async def close(self) -> None:
        """Remove the device, and with it its address and routes."""
        self._device.close()

    def packet_received(self, packet: bytes) -> None:
        """Give a packet to the kernel."""
        self._device.write(packet)

    def packets_received(self, packets: Sequence[bytes]) -> None:
        """Give packets to the kernel, joined where it takes them so."""
        self._device.write_batch(packets)

    def mtu_changed(self, mtu_bytes: int) -> None:
        """Follow the DATAGRAM limit, unless the config fixes the MTU: then larger packets are answered by ICMP."""
        if self._agent.config.tun.mtu is None and mtu_bytes >= MIN_MTU_BYTES and mtu_bytes != self._device.mtu_bytes:
            self._device.set_mtu(mtu_bytes)

    def batch_ended(self) -> None:
        """Add to this batch's transmit what the kernel answered at once, or what waits for the congestion window."""
        agent, device = self._agent, self._device
        room = agent.room if self._paused or device.may_answer else 0
        if room < (RESUME_ROOM if self._paused else 1):
            return
        batch = device.read_batch(room) if self._paused else device.read_answers(min(room, MAX_BATCH_PACKETS))
        if batch:
            agent.send_packets(batch)
            # The session whose batch this is transmits by itself, others have to be told.
            agent.flush()
        if self._paused and len(batch) < room:
            self._paused = False
            device.resume()

    def flow_received(self, session: Session, flow: int, payload: bytes) -> None:
        """Flows are for user mode."""

    def flow_failed(self, session: Session, flow: int, error: str) -> None:
        """Flows are for user mode."""

    def flow_closed(self, session: Session, flow: int) -> None:
        """Flows are for user mode."""

    def sessions_changed(self) -> None:
        """What was in the way may be gone. The services' far ends may finish checksums, or no longer."""
        sessions, addresses = self._agent.sessions, self._agent.virtual_ips
        ways = {} if sessions is None else {name: sessions.session_for(name) for name in addresses}
        self._device.unfinished = frozenset(
            inet_aton(addresses[name]) for name, way in ways.items() if way is not None and way.unfinished_checksums
        )
        if self._paused:
            self._paused = False
            self._device.resume()

    def status(self) -> dict[str, Any]:
        """Device and MTU."""
        return {"mode": "tun", "device": self._device.name, "mtu_bytes": self._device.mtu_bytes}

    def samples(self, prefix: str) -> list[Sample]:
        """Packets through the device."""
        mtu = Sample(f"{prefix}_tun_mtu_bytes", "MTU of the device", self._device.mtu_bytes, "gauge")
        return [mtu, *counters_of(f"{prefix}_tun", "TUN device", self._device.counters)]

    def _readable(self) -> None:
        """Read until the device is empty or a batch is full, then transmit once."""
        agent, device = self._agent, self._device
        asked, self._asked_at = self._asked_at, agent.clock()
        # After a pause there is one packet: send it before asking for another (the loop calls again at once).
        alone = self._asked_at - asked > PAUSE_S
        batch = device.read_batch(1 if alone else min(agent.room, MAX_BATCH_PACKETS))
        if batch:
            agent.send_packets(batch)
            agent.flush()
        if not agent.room:
            self._paused = True
            device.pause()
