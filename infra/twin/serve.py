"""Serves a package of the twin as a plugin process, so that the official CLI can drive the twin, too.

    python -m infra.twin.serve digitalocean RUN [ENGINE-ADDRESS]

prints its port; an engine attaches to it by PULUMI_DEBUG_PROVIDERS=digitalocean:PORT. RUN is the lab run of a world
that is up. It makes, changes and deletes things on this machine, and nowhere else.
"""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc

from infra.engine.errors import EngineError
from infra.engine.plugins import CHANNEL_OPTIONS
from infra.engine.props import from_struct, to_struct
from infra.engine.providers import Diff, Existing, Failure
from infra.engine.sdkschema import find_sdk
from infra.lab.errors import LabError
from infra.twin.packages import package
from infra.twin.provider import TwinProvider
from infra.twin.site import Site

USAGE: Final = "usage: python -m infra.twin.serve PACKAGE RUN [ENGINE-ADDRESS]"
THREADS: Final = 16
T = TypeVar("T")


class TwinService(provider_pb2_grpc.ResourceProviderServicer):
    """`pulumirpc.ResourceProvider` over a TwinProvider.

    Args:
        name: of the package.
        site: the world.
        log: gets notes until an engine has said where it listens.
    """

    def __init__(self, name: str, site: Site, log: Callable[[str], None]) -> None:
        self._name, self._log = name, log
        self._sdk = find_sdk(name, sys.executable)
        self._provider = TwinProvider(package(name), site, self._sdk, self._note)
        self._engine: engine_pb2_grpc.EngineStub | None = None

    # -- meeting the engine ----------------------------------------------------------------------------------------

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self._version)

    @property
    def _version(self) -> str:
        return self._sdk.version if self._sdk is not None else "0.0.0"

    def Handshake(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.ProviderHandshakeResponse:
        self.attach(request.engine_address)
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True, accept_resources=True, accept_outputs=False)

    def Attach(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self.attach(request.address)
        return empty_pb2.Empty()

    def attach(self, address: str) -> None:
        """Send notes to the engine at this address from now on."""
        if address:
            self._engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(address, options=CHANNEL_OPTIONS))

    def GetSchema(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.GetSchemaResponse:
        return provider_pb2.GetSchemaResponse(schema=json.dumps({"name": self._name, "version": self._version}))

    # -- configuration ---------------------------------------------------------------------------------------------

    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        olds, news = from_struct(request.olds), from_struct(request.news)
        inputs, failures = self._provider.check_config(request.urn, olds, news)
        return provider_pb2.CheckResponse(inputs=to_struct(inputs), failures=_failures(failures))

    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.ConfigureResponse:
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, acceptResources=True, acceptOutputs=False, supportsPreview=True
        )

    # -- resources -------------------------------------------------------------------------------------------------

    def Check(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        olds, news = from_struct(request.olds), from_struct(request.news)
        inputs, failures = _guarded(context, lambda: self._provider.check(request.urn, olds, news))
        return provider_pb2.CheckResponse(inputs=to_struct(inputs), failures=_failures(failures))

    def Diff(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        olds, inputs, news = from_struct(request.olds), from_struct(request.old_inputs), from_struct(request.news)
        ignored = list(request.ignoreChanges)
        found: Diff = _guarded(
            context, lambda: self._provider.diff(request.urn, request.id, inputs, olds, news, ignored)
        )
        kind = provider_pb2.DiffResponse.DIFF_SOME if found.changes else provider_pb2.DiffResponse.DIFF_NONE
        return provider_pb2.DiffResponse(
            changes=kind,
            replaces=list(found.replaces),
            diffs=list(found.changed),
            deleteBeforeReplace=found.delete_before_replace,
        )

    def Create(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.CreateResponse:
        inputs = from_struct(request.properties)
        outcome = _guarded(
            context, lambda: self._provider.create(request.urn, inputs, request.timeout, request.preview)
        )
        return provider_pb2.CreateResponse(id=outcome.id, properties=to_struct(outcome.outputs))

    def Read(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.ReadResponse:
        inputs, known = from_struct(request.inputs), from_struct(request.properties)
        outcome = _guarded(context, lambda: self._provider.read(request.urn, request.id, inputs, known, 0))
        if not outcome.id:
            return provider_pb2.ReadResponse()
        return provider_pb2.ReadResponse(id=outcome.id, properties=to_struct(outcome.outputs), inputs=request.inputs)

    def Update(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.UpdateResponse:
        old = Existing(request.urn, request.id, from_struct(request.old_inputs), from_struct(request.olds))
        news, ignored = from_struct(request.news), list(request.ignoreChanges)
        outcome = _guarded(context, lambda: self._provider.update(old, news, request.timeout, ignored, request.preview))
        return provider_pb2.UpdateResponse(properties=to_struct(outcome.outputs))

    def Delete(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        old = Existing(request.urn, request.id, from_struct(request.old_inputs), from_struct(request.properties))
        _guarded(context, lambda: self._provider.delete(old, request.timeout))
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.InvokeResponse:
        arguments = from_struct(request.args)
        result, failures = _guarded(context, lambda: self._provider.invoke(request.tok, arguments, request.preview))
        response = provider_pb2.InvokeResponse(failures=_failures(failures))
        getattr(response, "return").CopyFrom(to_struct(result))
        return response

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self._provider.cancel()
        return empty_pb2.Empty()

    def _note(self, sentence: str) -> None:
        if self._engine is None:
            self._log(sentence)
            return
        with suppress(grpc.RpcError):
            self._engine.Log(engine_pb2.LogRequest(severity=engine_pb2.INFO, message=sentence))


def _guarded(context: grpc.ServicerContext, act: Callable[[], T]) -> T:
    try:
        return act()
    except (EngineError, LabError, ValueError) as error:
        context.abort(grpc.StatusCode.UNKNOWN, str(error))
        raise


def _failures(failures: list[Failure]) -> list[provider_pb2.CheckFailure]:
    return [provider_pb2.CheckFailure(property=item.property, reason=item.reason) for item in failures]


def serve(name: str, site: Site, log: Callable[[str], None], engine: str = "") -> tuple[grpc.Server, int]:
    """Serve a package on a free port of loopback; returns server and port.

    Raises:
        UnsupportedError: the twin does not have the package.
    """
    service = TwinService(name, site, log)
    service.attach(engine)
    server = grpc.server(ThreadPoolExecutor(THREADS, "twin"), options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)])
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main(arguments: list[str]) -> int:
    """Serve until the process is ended; returns 2 when there is nothing to serve."""
    if not 2 <= len(arguments) <= 3:
        print(USAGE, file=sys.stderr)
        return 2
    name, run, *engine = arguments

    def log(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    site = Site(run, say=log)
    if not site.exists:
        print(f"there is no world {run!r}: ztna up --stack NAME --twin makes one", file=sys.stderr)
        return 2
    try:
        server, port = serve(name, site, log, *engine)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 2
    print(port, flush=True)
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
