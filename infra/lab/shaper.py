"""The process that carries all impaired links of a run: `python -m infra.lab.shaper SOCKET` in the switch namespace.

Between a host's end (`port`) and its end in the bridge (`trunk`), frames go through a `Direction` each way. Commands
come over a Unix socket, one JSON line each, answered by one JSON line:

    {"links": [LinkOrder...]}   carry exactly these links; known ones are changed in place
    {"statistics": true}        counters of each link and direction
"""

import json
import math
import os
import random
import select
import signal
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from infra.lab.frames import FrameSocket, entered, set_offloads
from infra.lab.link import Direction
from infra.lab.topology import Impairment

# Frames due within this time leave together; one wake-up each would cost more than it gains.
_GRAIN_S = 50e-6
_BATCH_FRAMES = 256
_MAX_ORDER_BYTES = 1 << 22


class LinkOrder(msgspec.Struct, frozen=True):
    """One link to carry.

    Args:
        id: names it.
        port: interface towards the host, in the shaper's namespace.
        trunk: interface towards the bridge.
        offloads: (namespace or None for the shaper's own, interface) pairs whose offloads are to be off.
        mtu: in bytes.
        up, down: what happens from port to trunk, and back.
    """

    id: str
    port: str
    trunk: str
    offloads: tuple[tuple[str | None, str], ...]
    mtu: int
    up: Impairment
    down: Impairment


class _Flow:
    """One direction with its two sockets."""

    def __init__(self, direction: Direction, source: FrameSocket, sink: FrameSocket) -> None:
        self.direction, self.source, self.sink = direction, source, sink

    def take_in(self, now: float) -> bool:
        frames = self.source.receive(_BATCH_FRAMES)
        offer = self.direction.offer
        for frame in frames:
            offer(frame, now)
        return bool(frames)

    def let_out(self, now: float) -> None:
        frames = self.direction.due(now)
        if frames:
            self.sink.send(frames)

    def statistics(self) -> dict[str, int]:
        return {
            **asdict(self.direction.counters),
            "under_way": len(self.direction),
            "ring_full": self.source.count_overflow(),
            "refused": self.sink.refused,
        }


class _Carried:
    """A link being carried."""

    def __init__(self, order: LinkOrder) -> None:
        self.order = order
        _switch_offloads(order, on=False)
        self.port = FrameSocket(order.port, order.mtu)
        self.trunk = FrameSocket(order.trunk, order.mtu)
        # Seeded by the link, so that the same traffic meets the same losses.
        self.up = _Flow(Direction(order.up, random.Random(f"{order.id} up").random), self.port, self.trunk)  # noqa: S311
        self.down = _Flow(Direction(order.down, random.Random(f"{order.id} down").random), self.trunk, self.port)  # noqa: S311

    def change(self, order: LinkOrder) -> None:
        if order.up != self.order.up:
            self.up.direction.change(order.up)
        if order.down != self.order.down:
            self.down.direction.change(order.down)
        self.order = order

    def close(self) -> None:
        self.port.close()
        self.trunk.close()
        _switch_offloads(self.order, on=True)


def _switch_offloads(order: LinkOrder, *, on: bool) -> None:
    for namespace, ifname in order.offloads:
        try:
            with entered(namespace):
                set_offloads(ifname, on)
        except FileNotFoundError:
            if not on:
                raise  # a host that is gone needs no offloads back


class Shaper:
    """The loop: move what arrived, release what is due, obey orders."""

    def __init__(self, path: Path) -> None:
        self._links: dict[str, _Carried] = {}
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(16)

    def run(self) -> None:
        """Serve until a signal ends the process."""
        while True:
            flows = [flow for link in self._links.values() for flow in (link.up, link.down)]
            due = min((flow.direction.next_time() for flow in flows), default=math.inf)
            wait_s = None if due == math.inf else max(0.0, due - time.monotonic())
            sources: list[socket.socket | FrameSocket] = [self._listener, *(flow.source for flow in flows)]
            readable, _, _ = select.select(sources, [], [], wait_s)
            if self._listener in readable:
                self._serve()
                continue
            now = time.monotonic()
            for flow in flows:
                if flow.source in readable and not flow.take_in(now):
                    flow.source.clear_error()
            now = time.monotonic() + _GRAIN_S
            for flow in flows:
                flow.let_out(now)

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            # Orders come from the lab's own processes, whole and at once; a stuck one must not stop the traffic.
            client.settimeout(0.5)
            try:
                with client.makefile("rb") as file:
                    line = file.readline(_MAX_ORDER_BYTES)
                if line:  # else only a look whether we are there
                    client.sendall(json.dumps(self.obey(json.loads(line))).encode() + b"\n")
            except (OSError, ValueError) as error:
                print(f"order not obeyed: {error}", file=sys.stderr, flush=True)

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order and return its answer."""
        try:
            if "links" in order:
                self._carry(msgspec.convert(order["links"], list[LinkOrder]))
        except (OSError, msgspec.ValidationError) as error:
            return {"error": str(error)}
        links = self._links.items()
        return {"links": {name: {"up": link.up.statistics(), "down": link.down.statistics()} for name, link in links}}

    def _carry(self, orders: list[LinkOrder]) -> None:
        wanted = {order.id: order for order in orders}
        for name in [name for name in self._links if name not in wanted]:
            self._links.pop(name).close()
        for name, order in wanted.items():
            if name in self._links:
                self._links[name].change(order)
            else:
                self._links[name] = _Carried(order)


def main() -> None:
    """Run the shaper for the socket path given as the only argument."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # The default slack of 50 us would be added to every delay.
    Path("/proc/self/timerslack_ns").write_text("1000")
    Shaper(Path(sys.argv[1])).run()


if __name__ == "__main__":
    main()
