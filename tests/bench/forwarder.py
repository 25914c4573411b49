"""Program: one back end of the relay for one pair. `python -m tests.bench.forwarder BACKEND A B`

Prints {"backend": NAME} when packets pass, and ends with its standard input, printing what it counted.
"""

import asyncio
import json
import sys
import time

from ztna.io.forward.choose import Mode, Place, choose
from ztna.io.runtime import run, settle_memory
from ztna.io.udp import UdpSocket
from ztna.proto.paths.stun_types import Endpoint

PORT = 4433


async def work(mode: Mode, a: Endpoint, b: Endpoint) -> None:
    """Forward between two endpoints until standard input ends."""
    loop = asyncio.get_running_loop()
    udp = UdpSocket("0.0.0.0", PORT)
    udp.start(loop, lambda batch: None)
    place = Place(
        host="0.0.0.0", port=PORT, main_fd=udp.fileno(), on_local=lambda data, source: None, loop=loop,
        clock=time.monotonic,
    )  # fmt: skip
    forwarder = choose(mode, place, lambda reason: None)
    assert forwarder is not None
    forwarder.install(bytes(16), a, b)
    settle_memory()
    sys.stdout.write(json.dumps({"backend": forwarder.name}) + "\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    while not ended.is_set():
        try:
            await asyncio.wait_for(ended.wait(), 1.0)
        except TimeoutError:
            forwarder.tick()
    counted = forwarder.counters()[bytes(16)]
    sys.stdout.write(json.dumps({"packets": counted.packets, "drops": dict(forwarder.drops())}) + "\n")
    forwarder.close()
    udp.close()


def endpoint(text: str) -> Endpoint:
    """`host:port`."""
    host, _, port = text.rpartition(":")
    return Endpoint(host, int(port))


if __name__ == "__main__":
    run(work(sys.argv[1], endpoint(sys.argv[2]), endpoint(sys.argv[3])))  # type: ignore[arg-type]
