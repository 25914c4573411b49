"""What the relay carries it cannot read: markers sent through it are in nothing that its host captures, keeps or shows.

The same search finds them where they are in the clear, so it is worth something: at the backend, and in the memory of
an intermediate that relays `ztna-v1`.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import ports
from infra.lab.nat import NatBehavior
from infra.verify.sessions import RELAY as RELAY_PATH
from tests.lab.faults.rig import AGENT, CONNECTOR, SERVICE, topology
from tests.support.session_bed import RELAY, SessionBed, SessionBedSpec, run_name, until

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.timeout(180)]

SECONDS = 4.0
SERVICE_IP = "100.64.0.100"
TALK = """
import contextlib, json, socket, sys, threading, time
udp, tcp, seconds, marker, host = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5]
end, counts = time.monotonic() + seconds, {"udp": 0, "tcp": 0}
def datagrams():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.connect((host, udp))
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                sock.send(("udp " + marker).encode() * 8)
                counts["udp"] += marker.encode() in sock.recv(65536)
            time.sleep(0.002)
def stream():
    with contextlib.suppress(OSError), socket.create_connection((host, tcp), timeout=5) as sock:
        while time.monotonic() < end:
            data = ("tcp " + marker).encode() * 100
            sock.sendall(data)
            while data:
                data = data[len(sock.recv(len(data))):]
            counts["tcp"] += 1
            time.sleep(0.005)
threads = [threading.Thread(target=each) for each in (datagrams, stream)]
[each.start() for each in threads]
[each.join() for each in threads]
print(json.dumps(counts))
"""


@contextlib.contextmanager
def bed(directory: Path, backend: str, mode: str, protocol: str) -> Iterator[SessionBed]:
    """An agent and a connector that have the relay's path alone."""
    keys: dict[str, Any] = {"direct": "off", "protocol": protocol}
    agent = {**keys, "mode": mode, **({"forwards": []} if mode == "tun" else {})}
    spec = SessionBedSpec(
        topology((NatBehavior(), NatBehavior())), (AGENT,), (CONNECTOR,),
        relay_config={"relay": backend, "log_level": "debug"}, agent_config=agent, connector_config=keys,
    )  # fmt: skip
    with SessionBed(run_name("blind"), directory, spec) as made:
        made.start_all([CONNECTOR])
        made.start_all([AGENT])
        yield made


@contextlib.contextmanager
def capturing(made: SessionBed, host: str, interface: str, path: Path) -> Iterator[None]:
    """Whole packets of a host while the block runs."""
    argv = [*made.lab.exec_prefix(host), "tcpdump", "-i", interface, "-n", "-U", "--immediate-mode", "-s", "0", "-w"]
    with subprocess.Popen([*argv, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert until(path.exists, 10)
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)


def memory(pid: int) -> Iterator[bytes]:
    """The writable memory of a process, map by map: what a core dump holds."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as image:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if found is None or "[v" in line:
                continue
            begin, end = (int(each, 16) for each in found.groups())
            with contextlib.suppress(OSError, OverflowError):
                image.seek(begin)
                yield image.read(end - begin)


def pages(made: SessionBed) -> str:
    """What the intermediate shows of itself."""
    script = "import sys, urllib.request as r; [print(r.urlopen(u).read().decode()) for u in sys.argv[1:]]"
    urls = [made.url(RELAY, page) for page in ("status", "metrics")]
    return str(made.lab.run(RELAY, [sys.executable, "-ISc", script, *urls]).stdout)


def search(made: SessionBed, tmp_path: Path, mode: str) -> tuple[dict[str, int], dict[str, bool]]:
    """Send a marker both ways for a while; (how often it came back, by what was searched whether it is there)."""
    marker = os.urandom(24).hex()
    needle = marker.encode()
    host = SERVICE_IP if mode == "tun" else "127.0.0.1"
    at = [ports.ECHO] * 2 if mode == "tun" else [made.port(SERVICE), made.port(SERVICE, "tcp")]
    talk = [sys.executable, "-ISsc", TALK, *map(str, at), str(SECONDS), marker, host]
    relay_pcap, backend_pcap = tmp_path / "relay.pcap", tmp_path / "backend.pcap"
    in_memory = False
    with capturing(made, RELAY, "any", relay_pcap), capturing(made, CONNECTOR, "lo", backend_pcap):
        process = subprocess.Popen([*made.lab.exec_prefix(AGENT), *talk], stdout=subprocess.PIPE, text=True)
        while process.poll() is None:
            in_memory = in_memory or any(needle in part for part in memory(made.pid(RELAY)))
            time.sleep(0.2)
        shown = pages(made)
        assert process.stdout is not None
        counts: dict[str, int] = json.loads(process.stdout.read())
        process.stdout.close()
    log = (made.directory / "relay-intermediate.log").read_bytes()
    assert log, "there is a log to search"
    found = {
        "backend": needle in backend_pcap.read_bytes(),
        "capture": needle in relay_pcap.read_bytes(),
        "log": needle in log,
        "memory": in_memory,
        "pages": marker in shown,
    }
    assert relay_pcap.stat().st_size > 50_000, "the capture saw what was relayed"
    return counts, found


@pytest.mark.parametrize(
    ("backend", "mode"),
    [("kernel", "user"), ("userspace", "user"), pytest.param("userspace", "tun", marks=pytest.mark.tun)],
)
def test_the_relay_never_sees_plaintext(tmp_path: Path, backend: str, mode: str) -> None:
    with bed(tmp_path, backend, mode, "auto") as made:
        counts, found = search(made, tmp_path, mode)
        session = made.session(AGENT, CONNECTOR)
        relay = made.relay_state()
    assert min(counts.values()) > 10, counts
    assert session is not None
    assert session.path == RELAY_PATH
    assert relay.backend == backend
    assert found == {"backend": True, "capture": False, "log": False, "memory": False, "pages": False}


def test_the_search_finds_what_an_intermediate_of_v1_sees(tmp_path: Path) -> None:
    with bed(tmp_path, "off", "user", "v1") as made:
        counts, found = search(made, tmp_path, "user")
    assert min(counts.values()) > 10, counts
    assert found["backend"]
    assert found["memory"], "DATAGRAM frames are decrypted and encrypted again"
