"""What the release tests share: keys, small bundles whose service can be told to fail, and a line that can be cut."""

import contextlib
import socket
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra import bundle, http_probe
from infra.bundle import Bundle
from infra.ssh_release import ReleaseJob, SshHost
from infra.units import CODE_DIR, CONFIG_DIR, Unit
from tests.release.machine import Machine

PORT = 8099
READY = f"http://127.0.0.1:{PORT}/"
UNIT = Unit(
    name="ztna-intermediate",
    description="a service of the tests",
    exec=(f"{CODE_DIR}/bin/serve", f"{CONFIG_DIR}/web/page.txt"),
    role="web",
    reload=("page.txt",),
)
SERVE = """\
#!/usr/bin/python3 -I
# Serves the text of a file, read again on SIGHUP; the version of the code comes first.
import http.server, pathlib, signal, sys

page = b""
def read(*_):
    global page
    page = b"VERSION " + pathlib.Path(sys.argv[1]).read_bytes()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(500 if b"unwell" in page else 200)
        self.end_headers()
        self.wfile.write(page)
read()
signal.signal(signal.SIGHUP, read)
if b"crash" in page:
    sys.exit("the page says crash")
http.server.HTTPServer(("127.0.0.1", 8099), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Keys:
    """A key pair of OpenSSH."""

    private: str
    public: str


def make_keys() -> Keys:
    """Return a new ed25519 pair."""
    key = Ed25519PrivateKey.generate()
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return Keys(key.private_bytes(*formats).decode(), public.decode())


ADMIN, BOOTSTRAP, PERMANENT = make_keys(), make_keys(), make_keys()


def first_boot_files(host_key: Keys = BOOTSTRAP) -> dict[str, str]:
    """Return what a first boot leaves for sshd."""
    return {
        "/root/.ssh/authorized_keys": ADMIN.public + "\n",
        "/etc/ssh/ssh_host_ed25519_key": host_key.private,
        "/etc/ssh/sshd_config.d/10-ztna.conf": "HostKey /etc/ssh/ssh_host_ed25519_key\n",
    }


def host(address: str, port: int = 22) -> SshHost:
    """Return how to reach a machine with the keys of these tests."""
    return SshHost(
        address=address,
        port=port,
        user="root",
        private_key=ADMIN.private,
        bootstrap_public=BOOTSTRAP.public,
        permanent_public=PERMANENT.public,
        permanent_private=PERMANENT.private,
    )


def small_bundle(folder: Path, version: str, ballast_bytes: int = 0) -> Bundle:
    """Return a bundle whose `serve` names the version, of the layout that hosts expect."""
    members = {
        "bin/serve": SERVE.replace("VERSION", version).encode(),
        "lib/infra/__init__.py": b"",
        "lib/infra/http_probe.py": Path(str(http_probe.__file__)).read_bytes(),
        **{
            f"lib/ztna/{name}": b""
            for name in ("__init__.py", "io/__init__.py", "io/connector.py", "io/intermediate.py")
        },
        # Not to be compressed: the test wants bytes on the wire.
        "lib/ballast": b"".join(hash_block(index) for index in range(ballast_bytes // 32)),
    }
    path = folder / f"{version}.tar.gz"
    path.write_bytes(bundle.archive(members))
    return Bundle(path=path, sha256=bundle.file_sha256(path), release_id=f"release-{version}")


def hash_block(index: int) -> bytes:
    """Return 32 bytes that look random."""
    import hashlib

    return hashlib.sha256(str(index).encode()).digest()


def job(machine: Machine, packed: Bundle, page: str = "hello", **changes: Any) -> ReleaseJob:
    """Return a job for a machine; it was never released to unless told otherwise."""
    import platform

    wanted = ReleaseJob(
        host=host(machine.address),
        machine="droplet-1",
        bundle=packed,
        units=(UNIT,),
        files={"web": {"page.txt": page, "key.pem": "a private key"}},
        ready=(READY,),
        python=".".join(system_python()),
        processor=platform.machine(),
        sysctls={"net.ipv4.ip_forward": 0},
        ready_timeout_s=10.0,
        first_contact=True,
    )
    return replace(wanted, **changes)


def system_python() -> tuple[str, str]:
    """Return the version of the machine's /usr/bin/python3, which is this machine's own."""
    import subprocess

    words = ("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2])")
    major, minor = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return major, minor


def page_of(machine: Machine) -> str:
    """Return what the service answers now."""
    return machine.run("curl", "--silent", "--show-error", READY)


class Line:
    """A TCP line to a machine on a port of loopback; once `cut_after` bytes have gone up, it is cut for good."""

    def __init__(self, address: str, cut_after: int | None = None) -> None:
        self._target = address, 22
        self._left = cut_after
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                for source, sink, counted in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pump, args=(source, sink, counted), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 16):
                if counted and self._left is not None:
                    self._left -= len(chunk)
                    if self._left <= 0:
                        self.cut()
                        return
                sink.sendall(chunk)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Cut every connection and take no new one."""
        for end in (self._server, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
