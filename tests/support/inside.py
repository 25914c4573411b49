"""A helper inside a host of the lab: status pages, echoes and streams, many at once, without a process for each.

Run as a script it obeys one JSON command per line ({"id": n, "do": name, ...}) and answers each when it is done
({"id": n, "answer": ...} or {"id": n, "error": ...}); `Inside` is the test's end of it. Standard library only.
"""

import contextlib
import hashlib
import itertools
import json
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Self

_HEADER = struct.Struct("!QIQ")  # run, sequence number, time of sending in ns
_RECORD = struct.Struct("!I")
_LARGEST = 65_536


class Inside:
    """The helper of one host. A context manager; the process in the host ends with it."""

    def __init__(self, prefix: Sequence[str]) -> None:
        argv = [*prefix, sys.executable, "-ISs", __file__]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=5)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            value = json.loads(line)
            future = self._waiting.pop(value["id"])
            if "error" in value:
                future.set_exception(OSError(value["error"]))
            else:
                future.set_result(value["answer"])
        for future in list(self._waiting.values()):
            future.set_exception(OSError("the helper has ended"))

    def begin(self, do: str, **arguments: Any) -> "Future[Any]":
        """Start a command; it runs beside others."""
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = future
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"id": number, "do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        return future

    def ask(self, do: str, timeout_s: float = 60.0, **arguments: Any) -> Any:
        """Run a command and wait for its answer."""
        return self.begin(do, **arguments).result(timeout_s)

    def page(self, url: str) -> dict[str, Any] | None:
        """The JSON of a page; None where it does not answer with any."""
        found: dict[str, Any] | None = self.ask("page", url=url)
        return found


# the helper's side


def page(url: str) -> dict[str, Any] | None:
    """GET JSON; None where there is none."""
    try:
        with urllib.request.urlopen(url, timeout=3) as response:
            found = json.loads(response.read())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def echoes(
    ports: dict[str, int], count: int, size: int, wait_s: float, window: int = 4, host: str = "127.0.0.1"
) -> dict[str, Any]:
    """Numbered datagrams to several ports, up to `window` of each unanswered; per name: sent, answered, RTTs in ms.

    The pace is that of the answers, so a busy machine makes it slower and loses nothing; one that has not come after
    `wait_s` counts as lost.
    """
    with contextlib.ExitStack() as stack:
        loops = {name: stack.enter_context(_EchoLoop(host, port, count, size, wait_s)) for name, port in ports.items()}
        while pending := [loop for loop in loops.values() if not loop.done]:
            for loop in pending:
                loop.step(window)
            select.select([loop.sock for loop in pending], [], [], 0.02)
        return {name: loop.result() for name, loop in loops.items()}


class _EchoLoop:
    """The echoes of one port."""

    def __init__(self, host: str, port: int, count: int, size: int, wait_s: float) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect((host, port))
        self.sock.setblocking(False)
        self._run, self._count, self._wait_s = time.monotonic_ns(), count, wait_s
        self._padding = bytes(max(0, size - _HEADER.size))
        self._sent = 0
        self._waiting: dict[int, float] = {}
        self._rtt_ms: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    @property
    def done(self) -> bool:
        """Whether all are sent, and answered or given up."""
        return self._sent == self._count and not self._waiting

    def step(self, window: int) -> None:
        """Take what came, give up what is late, fill the window."""
        now = time.monotonic()
        while True:
            try:
                own, number, _ = _HEADER.unpack_from(self.sock.recv(_LARGEST))
            except BlockingIOError:
                break
            except (OSError, struct.error):  # an ICMP error: nobody listens yet
                continue
            if own == self._run and (at := self._waiting.pop(number, None)) is not None:
                self._rtt_ms.append(round((now - at) * 1000, 3))
        for number in [number for number, at in self._waiting.items() if now - at > self._wait_s]:
            del self._waiting[number]
        while self._sent < self._count and len(self._waiting) < window:
            with contextlib.suppress(OSError):
                self.sock.send(_HEADER.pack(self._run, self._sent, 0) + self._padding)
            self._waiting[self._sent] = now
            self._sent += 1

    def result(self) -> dict[str, Any]:
        """What became of them."""
        return {"sent": self._sent, "answered": len(self._rtt_ms), "rtt_ms": self._rtt_ms}


def watch(port: int, interval_ms: float, seconds: float, size: int = 64, host: str = "127.0.0.1") -> dict[str, Any]:
    """An echo each interval: [Unix seconds of sending, RTT in ms or null] for each, and answers that came twice."""
    run, count = time.monotonic_ns(), int(seconds * 1000 / interval_ms)
    sent: list[float] = []
    rtt: list[float | None] = [None] * count
    twice = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, port))
        begin = time.monotonic()
        end = begin + count * interval_ms / 1000 + 1.0
        while (now := time.monotonic()) < end and (len(sent) < count or None in rtt):
            due = begin + len(sent) * interval_ms / 1000
            if len(sent) < count and now >= due:
                with contextlib.suppress(OSError):
                    sock.send(_HEADER.pack(run, len(sent), 0) + bytes(max(0, size - _HEADER.size)))
                sent.append(time.time())
                continue
            sock.settimeout(max(0.0005, min(due if len(sent) < count else end, end) - now))
            try:
                own, number, _ = _HEADER.unpack_from(sock.recv(_LARGEST))
            except (OSError, struct.error):
                continue
            if own != run or number >= len(sent):
                continue
            twice += rtt[number] is not None
            if rtt[number] is None:
                rtt[number] = round((time.time() - sent[number]) * 1000, 3)
    return {"samples": [[round(at, 4), rtt[number]] for number, at in enumerate(sent)], "twice": twice}


def stream(
    port: int, seconds: float, size: int, interval_ms: float, host: str = "127.0.0.1", wait_s: float = 30.0
) -> dict[str, Any]:
    """Numbered records over one TCP connection to an echo: bytes back, whether equal, and the longest stall."""
    sent, back = hashlib.sha256(), hashlib.sha256()
    received = longest_ns = 0
    done = threading.Event()
    total = int(seconds * 1000 / interval_ms) * size
    failure: list[str] = []
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.settimeout(wait_s)

        def read() -> None:
            nonlocal received, longest_ns
            last = time.monotonic_ns()
            try:
                while received < total and (data := sock.recv(_LARGEST)):
                    now = time.monotonic_ns()
                    longest_ns, last = max(longest_ns, now - last), now
                    back.update(data)
                    received += len(data)
            except OSError as error:
                failure.append(str(error))
            done.set()

        threading.Thread(target=read, daemon=True).start()
        begin = time.monotonic()
        try:
            for number in range(total // size):
                record = _RECORD.pack(number) + bytes([number & 255]) * (size - _RECORD.size)
                sent.update(record)
                sock.sendall(record)
                time.sleep(max(0.0, begin + (number + 1) * interval_ms / 1000 - time.monotonic()))
        except OSError as error:
            failure.append(str(error))
        done.wait(wait_s)
    equal = received == total and sent.digest() == back.digest()
    return {
        "sent": total, "received": received, "equal": equal, "stall_s": round(longest_ns / 1e9, 3),
        "failure": "; ".join(failure),
    }  # fmt: skip


def transfer(port: int, size: int, host: str = "127.0.0.1", wait_s: float = 60.0) -> dict[str, Any]:
    """Bytes at full speed over TCP to an echo and back, compared by SHA-256."""
    block = hashlib.shake_128(str(size).encode()).digest(1 << 16)
    sent, back = hashlib.sha256(), hashlib.sha256()
    received, failure = 0, ""
    began = time.monotonic()
    try:
        with socket.create_connection((host, port), timeout=wait_s) as sock:
            sock.settimeout(wait_s)

            def write() -> None:
                left = size
                with contextlib.suppress(OSError):
                    while left:
                        part = block[: min(left, len(block))]
                        sent.update(part)
                        sock.sendall(part)
                        left -= len(part)
                    sock.shutdown(socket.SHUT_WR)

            writer = threading.Thread(target=write, daemon=True)
            writer.start()
            while data := sock.recv(_LARGEST):
                back.update(data)
                received += len(data)
            writer.join(5)
    except OSError as error:
        failure = str(error)
    equal = received == size and sent.digest() == back.digest()
    return {"received": received, "equal": equal, "seconds": round(time.monotonic() - began, 3), "failure": failure}


def connects(port: int, wait_s: float, host: str = "127.0.0.1") -> str:
    """How an attempt to echo one byte over TCP ends: `works`, or the error."""
    try:
        with socket.create_connection((host, port), timeout=wait_s) as sock:
            sock.settimeout(wait_s)
            sock.sendall(b"?")
            return "works" if sock.recv(1) == b"?" else "closed"
    except OSError as error:
        return type(error).__name__


_COMMANDS = {
    "page": page, "echoes": echoes, "watch": watch, "stream": stream, "transfer": transfer, "connects": connects,
}  # fmt: skip


def main() -> None:
    """Serve commands until the input ends, each in a thread of its own."""
    lock = threading.Lock()

    def run(number: int, do: str, arguments: dict[str, Any]) -> None:
        try:
            answer = {"id": number, "answer": _COMMANDS[do](**arguments)}  # type: ignore[operator]
        except (OSError, TypeError, ValueError, KeyError) as error:
            answer = {"id": number, "error": f"{type(error).__name__}: {error}"}
        with lock:
            print(json.dumps(answer), flush=True)

    for line in sys.stdin:
        command = json.loads(line)
        arguments = (command.pop("id"), command.pop("do"), command)
        threading.Thread(target=run, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
