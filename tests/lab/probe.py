"""Sockets inside a host of the lab, driven from a test: one JSON command per line in, one JSON answer per line out.

Run as `python probe.py` in the host; `Probe` is the test's end of it.
"""

import contextlib
import hashlib
import json
import queue
import selectors
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Self

Endpoint = tuple[str, int]
_SO_RCVBUFFORCE = 33


class Probe:
    """UDP and TCP sockets in a host. A context manager; the process in the host ends with it."""

    def __init__(self, prefix: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-ISs", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate("", timeout=5)

    def _ask(self, **command: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if isinstance(answer, dict):
            raise OSError(answer["error"])
        return answer

    def open(self, address: str = "0.0.0.0", port: int = 0) -> int:
        """Open a UDP socket and return its port, which names it from then on."""
        return int(self._ask(do="open", address=address, port=port))

    def send(self, port: int, text: str, to: Endpoint, *, source: str | None = None) -> None:
        """Send a datagram, without waiting for anything."""
        self._ask(do="send", port=port, text=text, to=to, source=source)

    def receive(self, port: int, timeout_s: float = 1.0) -> tuple[str, Endpoint] | None:
        """Return the next datagram and its source; None after the time-out."""
        answer = self._ask(do="receive", port=port, timeout_s=timeout_s)
        return None if answer is None else (answer[0], (answer[1], answer[2]))

    def flood(self, port: int, to: Endpoint, count: int, *, per_second: int, size_bytes: int = 100) -> float:
        """Send numbered datagrams at a steady pace and return the seconds it took."""
        return float(self._ask(do="flood", port=port, to=to, count=count, per_second=per_second, size_bytes=size_bytes))

    def drain(self, port: int, quiet_s: float = 0.3) -> list[int]:
        """Return the numbers of a flood's datagrams in the order they came, until it has been quiet for a while."""
        return list(self._ask(do="drain", port=port, quiet_s=quiet_s))

    def collect(self, port: int) -> tuple[int, str, float]:
        """Accept one connection on a `listen` port and read it to its end: bytes, their SHA-256, seconds."""
        count, digest, seconds = self._ask(do="collect", port=port)
        return count, digest, seconds

    def refused(self, to: Endpoint, timeout_s: float = 1.0) -> bool:
        """Whether a datagram from a connected socket is answered by an ICMP error."""
        return bool(self._ask(do="refused", to=to, timeout_s=timeout_s))

    def listen(self, port: int) -> None:
        """Listen on a TCP port."""
        self._ask(do="listen", port=port)

    def fetch(self, to: Endpoint, timeout_s: float = 1.0) -> Endpoint | None:
        """Connect by TCP to a `listen` port served by `serve_once`; None where that fails within the time-out."""
        answer = self._ask(do="fetch", to=to, timeout_s=timeout_s)
        return None if answer is None else (answer[0], answer[1])

    def serve_once(self, port: int, timeout_s: float = 1.0) -> Endpoint | None:
        """Accept one connection on a `listen` port, tell it its source, and return that."""
        answer = self._ask(do="serve_once", port=port, timeout_s=timeout_s)
        return None if answer is None else (answer[0], answer[1])


def exchange(near: Probe, near_port: int, far: Probe, far_port: int, to: Endpoint) -> Endpoint | None:
    """Send from near to far, and return the source far saw; None if nothing came."""
    near.send(near_port, "over", to)
    got = far.receive(far_port)
    return None if got is None else got[1]


class _Sockets:
    def __init__(self) -> None:
        self.udp: dict[int, socket.socket] = {}
        self.arrived: dict[int, queue.SimpleQueue[tuple[bytes, Any]]] = {}
        self.tcp: dict[int, socket.socket] = {}

    def open(self, address: str, port: int) -> int:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
        sock.bind((address, port))
        number: int = sock.getsockname()[1]
        self.udp[number] = sock
        self.arrived[number] = queue.SimpleQueue()
        # Read at once: an ordinary user's socket buffer holds a hundred datagrams.
        threading.Thread(target=self._read, args=(sock, self.arrived[number]), daemon=True).start()
        return number

    @staticmethod
    def _read(sock: socket.socket, arrived: queue.SimpleQueue[tuple[bytes, Any]]) -> None:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                arrived.put(sock.recvfrom(65536))

    def send(self, port: int, text: str, to: list[Any], source: str | None) -> bool:
        self.udp[port].sendto(text.encode("latin-1"), tuple(to))
        return True

    def receive(self, port: int, timeout_s: float) -> list[Any] | None:
        try:
            data, (address, number) = self.arrived[port].get(timeout=timeout_s)
        except queue.Empty:
            return None
        return [data.decode("latin-1"), address, number]

    def flood(self, port: int, to: list[Any], count: int, per_second: int, size_bytes: int) -> float:
        begin = time.monotonic()
        padding = bytes(size_bytes - 4)
        for number in range(count):
            wait_s = begin + number / per_second - time.monotonic()
            if wait_s > 0.0002:
                time.sleep(wait_s)
            self.udp[port].sendto(number.to_bytes(4, "big") + padding, tuple(to))
        return time.monotonic() - begin

    def drain(self, port: int, quiet_s: float) -> list[int]:
        numbers = []
        with contextlib.suppress(queue.Empty):
            while True:
                numbers.append(int.from_bytes(self.arrived[port].get(timeout=quiet_s)[0][:4], "big"))
        return numbers

    def collect(self, port: int) -> list[Any]:
        connection, _ = self.tcp[port].accept()
        digest, count, begin = hashlib.sha256(), 0, time.monotonic()
        with connection:
            while data := connection.recv(1 << 18):
                digest.update(data)
                count += len(data)
        return [count, digest.hexdigest(), time.monotonic() - begin]

    def refused(self, to: list[Any], timeout_s: float) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(tuple(to))
            sock.settimeout(timeout_s)
            sock.send(b"anyone?")
            try:
                sock.recv(100)
            except ConnectionRefusedError:
                return True
            except TimeoutError:
                return False
        return False

    def listen(self, port: int) -> bool:
        self.tcp[port] = socket.create_server(("0.0.0.0", port))
        return True

    def fetch(self, to: list[Any], timeout_s: float) -> list[Any] | None:
        try:
            with socket.create_connection(tuple(to), timeout=timeout_s) as sock:
                name: list[Any] = list(sock.getsockname())
                return name
        except OSError:
            return None

    def serve_once(self, port: int, timeout_s: float) -> list[Any] | None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.tcp[port], selectors.EVENT_READ)
            if not selector.select(timeout_s):
                return None
        connection, source = self.tcp[port].accept()
        connection.close()
        return list(source)


def main() -> None:
    """Serve commands until the input ends."""
    sockets = _Sockets()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(sockets, command.pop("do"))(**command)
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
