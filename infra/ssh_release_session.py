"""A connection to a host that is to be released to: its key verified first, then one script that does what it is told.

The script's requests and answers are lines of JSON over the channel's standard input and output; the bytes of a bundle
follow their request. Keys and certificates go this way only: never by argument, environment or temporary file.
"""

import enum
import hashlib
import json
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import paramiko

from infra import ssh_release_deploy, ssh_release_files, ssh_release_host

CONNECT_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 0.3
CALL_TIMEOUT_S: Final = 60.0
STALL_TIMEOUT_S: Final = 60.0
"""An upload that moves no byte for so long has lost its connection."""
CHUNK_BYTES: Final = 1 << 18
PROGRESS_EVERY_S: Final = 2.0
LOST: Final = (OSError, EOFError, paramiko.SSHException)
"""What paramiko raises when a connection ends."""


class ReleaseError(Exception):
    """A release was not made; the text says what the host runs now and what to do."""


class UnreachableError(ReleaseError):
    """There is no connection to the host, or it was lost."""


class LoginError(ReleaseError):
    """The host refuses the login."""


class HostKeyError(ReleaseError):
    """The host presents a key that it must not have; nothing was sent to it."""


class Contact(enum.Enum):
    """Which host keys are believed."""

    FIRST = "first"
    """The permanent one, or the bootstrap key of a machine that was never released to."""
    PERMANENT = "permanent"


@dataclass(frozen=True, kw_only=True, slots=True)
class SshHost:
    """A host and its keys in OpenSSH's formats; the private ones are not shown."""

    address: str
    port: int
    user: str
    private_key: str = field(repr=False)
    bootstrap_public: str
    permanent_public: str
    permanent_private: str = field(repr=False)


class Session:
    """The script on the host, as requests and answers; closing it ends the script when it is idle."""

    def __init__(self, transport: paramiko.Transport, channel: paramiko.Channel, *, has_permanent_key: bool) -> None:
        self._transport = transport
        self._channel = channel
        self._received = b""
        self.has_permanent_key = has_permanent_key
        """Whether the host has presented its permanent key, not that of its first boot."""

    @classmethod
    def open(cls, host: SshHost, contact: Contact, patience_s: float) -> "Session":
        """Connect, verify the host key, log in and start the script; what is not there yet is tried again.

        Raises:
            HostKeyError: the key is another one; at once, and before anything is sent.
            UnreachableError: no connection within `patience_s`.
            ReleaseError: the login or the script was refused.
        """
        until = time.monotonic() + patience_s
        while True:
            try:
                return cls._open(host, contact)
            except (UnreachableError, LoginError) as error:
                # A machine that boots lets nobody in but root (pam_nologin(8)).
                final = isinstance(error, LoginError) and contact is not Contact.FIRST
                if final or time.monotonic() + RETRY_S > until:
                    raise type(error)(f"{error} (tried for {patience_s:g} s)") from error
                time.sleep(RETRY_S)

    @classmethod
    def _open(cls, host: SshHost, contact: Contact) -> "Session":
        where = f"{host.address}:{host.port}"
        try:
            sock = socket.create_connection((host.address, host.port), timeout=CONNECT_TIMEOUT_S)
        except OSError as error:
            raise UnreachableError(f"host {where} does not answer: {error}; is it up, and may you reach it?") from error
        transport = paramiko.Transport(sock)
        try:
            permanent = _verified(transport, host, contact)
            key = paramiko.Ed25519Key.from_private_key(StringIO(host.private_key))
            transport.auth_publickey(host.user, key)
            channel = transport.open_session(timeout=CONNECT_TIMEOUT_S)
            _start(channel, host.user)
        except paramiko.AuthenticationException as error:
            transport.close()
            raise LoginError(
                f"host {where} refuses the login of {host.user!r} with the stack's key: {error}"
            ) from error
        except LOST as error:
            transport.close()
            raise UnreachableError(f"host {where}: {str(error) or 'the connection was lost'}") from error
        except BaseException:
            transport.close()
            raise
        return cls(transport, channel, has_permanent_key=permanent)

    def call(
        self,
        operation: str,
        arguments: Mapping[str, Any],
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        progress: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Send a request and return its result, telling progress meanwhile.

        Raises:
            ReleaseError: the host refused, with its own reason.
            UnreachableError: the connection was lost, or there was no answer in time.
        """
        request = json.dumps({"op": operation, **arguments}) + "\n"
        try:
            self._channel.settimeout(CALL_TIMEOUT_S)
            self._channel.sendall(request.encode())
        except LOST as error:
            raise UnreachableError(f"the connection was lost: {error}") from error
        return self._answer(timeout_s, progress)

    def upload(self, path: Path, sha256: str, have: int, progress: Callable[[str], None]) -> int:
        """Send a file, going on after the `have` bytes that the host kept of an earlier attempt; return bytes sent.

        Raises:
            ReleaseError: it arrived corrupted, or the disk is full.
            UnreachableError: the connection was lost; what has arrived is kept for the next attempt.
        """
        size = path.stat().st_size
        have = have if have <= size else 0
        request = {"sha256": sha256, "size": size, "have": have, "prefix": _prefix_sha256(path, have)}
        begun = self.call("upload", {**request, "unpacked": _unpacked_bytes(path)})
        offset = int(begun["offset"])
        progress(
            f"uploading {(size - offset) / 1e6:.1f} MB" + (f", going on after {offset / 1e6:.1f} MB" if offset else "")
        )
        try:
            self._send(path, offset, size, progress)
        except LOST as error:
            # The host may have said why it hung up.
            self._answer(CALL_TIMEOUT_S, progress)
            raise UnreachableError(f"the connection was lost during the upload: {error}") from error
        self._answer(CALL_TIMEOUT_S, progress)
        return size - offset

    def _send(self, path: Path, offset: int, size: int, progress: Callable[[str], None]) -> None:
        self._channel.settimeout(STALL_TIMEOUT_S)
        sent, told = offset, time.monotonic()
        with path.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK_BYTES):
                self._channel.sendall(chunk)
                sent += len(chunk)
                if time.monotonic() > told + PROGRESS_EVERY_S:
                    told = time.monotonic()
                    progress(f"uploaded {100 * sent // size} %")

    def _answer(self, timeout_s: float, progress: Callable[[str], None] | None) -> dict[str, Any]:
        until = time.monotonic() + timeout_s
        while True:
            answer = json.loads(self._line(until))
            if "error" in answer:
                raise ReleaseError(answer["error"])
            if "result" in answer:
                result: dict[str, Any] = answer["result"]
                return result
            if progress is not None:
                progress(answer["progress"])

    def _line(self, until: float) -> bytes:
        while b"\n" not in self._received:
            try:
                self._channel.settimeout(max(0.1, until - time.monotonic()))
                chunk = self._channel.recv(CHUNK_BYTES)
            except TimeoutError as error:
                raise UnreachableError(
                    "the host gave no answer in time; it finishes or rolls back on its own"
                ) from error
            if not chunk:
                if words := _last_words(self._channel):
                    raise ReleaseError(f"the host's half ended: {words}")
                raise UnreachableError(
                    "the connection was lost; a deployment under way goes on there, and gets healthy or rolls back"
                )
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def close(self) -> None:
        """Hang up."""
        self._channel.close()
        self._transport.close()

    def __enter__(self) -> "Session":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up, also when interrupted."""
        self.close()


def _verified(transport: paramiko.Transport, host: SshHost, contact: Contact) -> bool:
    """Exchange keys and compare the host's with those believed; return whether it is the permanent one."""
    transport.banner_timeout = transport.auth_timeout = CONNECT_TIMEOUT_S
    transport.get_security_options().key_types = ["ssh-ed25519"]
    transport.start_client(timeout=CONNECT_TIMEOUT_S)
    presented = transport.get_remote_server_key()
    shown = f"{presented.get_name()} {presented.get_base64()}"
    if _key(host.permanent_public) == shown:
        return True
    if contact is Contact.FIRST and _key(host.bootstrap_public) == shown:
        return False
    raise HostKeyError(
        f"host {host.address}:{host.port} presents the host key {presented.fingerprint}, which is not the one that the "
        f"stack gave it ({'first contact' if contact is Contact.FIRST else 'permanent key'}): somebody may be in "
        "between, or the machine was exchanged by hand; nothing was sent to it"
    )


def _key(public: str) -> str:
    return " ".join(public.split()[:2])


_BOOTSTRAP: Final = (
    "import json,sys,types;"
    "p=types.ModuleType('infra');p.__path__=[];sys.modules['infra']=p;"
    "s=sys.stdin.buffer.raw;n=int(sys.argv[1]);b=b'';\n"
    "while len(b)<n: b+=s.read(n-len(b)) or sys.exit('lost')\n"
    "for k,t in json.loads(b): m=types.ModuleType(k);sys.modules[k]=m;"
    "setattr(p,k.split('.')[1],m);exec(compile(t,k,'exec'),m.__dict__)\n"
    "m.main()"
)
"""Starts the last of the modules that are sent on standard input; nothing of them touches the disk."""


def _start(channel: paramiko.Channel, user: str) -> None:
    """Start the script on the host: as root, or by sudo."""
    modules = (ssh_release_files, ssh_release_deploy, ssh_release_host)
    sources = json.dumps([[module.__name__, Path(str(module.__file__)).read_text()] for module in modules]).encode()
    sudo = "" if user == "root" else "sudo -n -- "
    channel.settimeout(CALL_TIMEOUT_S)
    channel.exec_command(f"{sudo}/usr/bin/python3 -I -c {shlex.quote(_BOOTSTRAP)} {len(sources)}")
    try:
        channel.sendall(sources)
    except LOST as error:
        if words := _last_words(channel):
            raise ReleaseError(f"the host's half cannot be started: {words}") from error
        raise


def _last_words(channel: paramiko.Channel) -> str:
    """Return what the host wrote to standard error, like sudo's refusal."""
    channel.settimeout(1.0)
    try:
        return channel.recv_stderr(4096).decode("utf-8", "replace").strip()
    except LOST:
        return ""


def _prefix_sha256(path: Path, length: int) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(length)).hexdigest()


def _unpacked_bytes(path: Path) -> int:
    """Return the size of the archive inside a .gz (RFC 1952 section 2.3.1: ISIZE)."""
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")
