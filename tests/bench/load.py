"""Program: load for an intermediate from one process. `python -m tests.bench.load MODE ...` prints JSON lines.

`idle N`: hold N real `ztna-v1` connections with certificates and 10 s keepalive; prints {"open": N} when all are
registered and ends when its standard input does. `handshakes SECONDS`: open and close connections as fast as it can.
"""

import argparse
import asyncio
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.v1_clients import Clients, Profile, read_profile

_CONCURRENCY = 24


def say(value: dict[str, Any]) -> None:
    """One JSON line on standard output, at once."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def idle(profile: Profile, count: int, bind: str) -> None:
    """Hold `count` connections until standard input ends."""
    clients = Clients(bind)
    started = time.monotonic()
    todo = iter(range(count))

    async def worker() -> None:
        for _ in todo:
            client = await clients.connect(profile, timeout_s=30.0)
            if client.closed is not None:
                raise RuntimeError(f"refused: {client.closed.reason}")

    await asyncio.gather(*(worker() for _ in range(min(_CONCURRENCY, count))))
    gc.collect()
    gc.freeze()
    say({"open": clients.endpoint.established_count, "seconds": round(time.monotonic() - started, 2)})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    say({"open": clients.endpoint.established_count, "problems": clients.problems[:5]})
    await clients.close()


async def handshakes(profile: Profile, seconds: float, bind: str) -> None:
    """Complete handshakes for `seconds` and close each connection again."""
    clients = Clients(bind)
    started = time.monotonic()
    done: list[float] = []
    failed = 0

    async def worker() -> None:
        nonlocal failed
        while time.monotonic() - started < seconds:
            before = time.monotonic()
            client = await clients.connect(profile, register=False)
            if client.closed is not None:
                failed += 1
                continue
            done.append(time.monotonic() - before)
            client.peer.close(0, "done")

    await asyncio.gather(*(worker() for _ in range(_CONCURRENCY)))
    elapsed = time.monotonic() - started
    say({"handshakes": len(done), "failed": failed, "seconds": round(elapsed, 3),
         "per_s": round(len(done) / elapsed, 1), "ms": [round(value * 1000, 2) for value in done]})  # fmt: skip
    await clients.close()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mode", choices=("idle", "handshakes"))
    parser.add_argument("amount", type=float, help="connections, or seconds")
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--bind", required=True, help="address to send from")
    arguments = parser.parse_args()
    profile = read_profile(arguments.profile)
    if arguments.mode == "idle":
        asyncio.run(idle(profile, int(arguments.amount), arguments.bind))
    else:
        asyncio.run(handshakes(profile, arguments.amount, arguments.bind))


if __name__ == "__main__":
    main()
