"""Starts provider plugins: Python's dynamic provider, attached debug providers, and `pulumi-resource-*` binaries."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from infra.engine.children import Child
from infra.engine.errors import ResourceError, UnsupportedError
from infra.engine.preview_provider import REMEDY, PreviewProvider
from infra.engine.providers import GrpcProvider, Provider
from infra.engine.sdkschema import find_sdk

EXEC = Path(__file__).with_name("exec.py")
DYNAMIC = "pulumi-python"
START_TIMEOUT_S = 30.0
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", 400 << 20), ("grpc.max_send_message_length", 400 << 20)]


@dataclass(frozen=True, kw_only=True)
class PluginHost:
    """Where and how plugins are started.

    Args:
        python: the program's interpreter; the dynamic provider runs in it.
        cwd: the program's directory.
        env: environment variables on top of the engine's own.
        on_line: gets (stream, line) of what plugins print.
        binaries: whether `pulumi-resource-*` binaries on PATH may be started.
        preview: nothing will be changed, so that a package without a provider may be served from its SDK.
        engine: starts, at the first call, what plugin binaries log to, and returns its address.
        on_note: gets sentences on what such a preview does not know.
    """

    python: str
    cwd: Path
    env: dict[str, str] = field(default_factory=dict)
    on_line: Callable[[str, str], None] = lambda stream, line: None
    binaries: bool = False
    preview: bool = False
    engine: Callable[[], str] = lambda: ""
    on_note: Callable[[str], None] = lambda sentence: None

    def start(self, package: str) -> Provider:
        """Starts the provider of a package.

        Raises:
            UnsupportedError: the engine has no provider of that name.
            ResourceError: it did not start.
        """
        port = _debug_port(package)
        if port:
            return GrpcProvider(package, _channel(port), lambda: None)
        if package == DYNAMIC:
            return self._launch(package, [self.python, "-u", str(EXEC), "module", "pulumi.dynamic", "127.0.0.1:0"])
        binary = shutil.which(f"pulumi-resource-{package}") if self.binaries else None
        if not binary:
            return self._preview_of(package)
        # sys.executable watches on behalf of a binary that knows nothing of our pipe.
        address = self.engine()
        watched = [sys.executable, "-u", str(EXEC.with_name("watch.py")), binary, address]
        provider = self._launch(package, watched)
        provider.handshake(address, root=Path(binary).parent, program=self.cwd)
        return provider

    def _preview_of(self, package: str) -> Provider:
        """The provider that previews make do with; there is none where something is to be changed."""
        if self.binaries:
            raise UnsupportedError(
                f"there is no pulumi-resource-{package} on PATH, which --real needs",
                f"Install it: pulumi plugin install resource {package}, and add its folder to PATH.",
            )
        sdk = find_sdk(package, self.python) if self.preview else None
        if sdk is None:
            raise UnsupportedError(
                f"the embedded engine has no provider for package {package!r}", REMEDY.format(package=package)
            )
        return PreviewProvider(sdk, self.on_note)

    def _launch(self, package: str, argv: list[str]) -> GrpcProvider:
        child = Child(argv, cwd=self.cwd, env={**os.environ, **self.env}, on_line=self.on_line, first_line=True)
        port = child.read_line(START_TIMEOUT_S)
        if not port.isdigit():
            child.stop()
            raise ResourceError(f"the provider of package {package!r} did not start (it said {port!r})")
        return GrpcProvider(package, _channel(int(port)), child.stop)


def _channel(port: int) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS)


def _debug_port(package: str) -> int:
    """PULUMI_DEBUG_PROVIDERS=`name:port,...` attaches to providers that someone else has started."""
    for entry in os.environ.get("PULUMI_DEBUG_PROVIDERS", "").split(","):
        name, _, port = entry.partition(":")
        if name.strip() == package and port.isdigit():
            return int(port)
    return 0
