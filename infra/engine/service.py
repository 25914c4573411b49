"""A provider of this project as `pulumirpc.ResourceProvider`: what the official CLI attaches to as a plugin process.

The other direction of `GrpcProvider` (infra/engine/providers.py). A resource that is there and not ready travels as a
detail of an error status, as the CLI and our own engine read it.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ClassVar, Final, NoReturn, TypeVar

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2

from infra.engine.errors import EngineError
from infra.engine.plugins import CHANNEL_OPTIONS
from infra.engine.props import Props, from_struct, to_struct
from infra.engine.providers import Diff, Existing, Failure, Outcome, Provider

THREADS: Final = 16
T = TypeVar("T")
_CHANGES: Final = {
    None: provider_pb2.DiffResponse.DIFF_UNKNOWN,
    False: provider_pb2.DiffResponse.DIFF_NONE,
    True: provider_pb2.DiffResponse.DIFF_SOME,
}


class ProviderService(provider_pb2_grpc.ResourceProviderServicer):
    """`pulumirpc.ResourceProvider` over a provider.

    Args:
        name: of the package.
        version: of the package.
        make: makes the provider, which gives its notes to what it is given here.
        log: gets notes until an engine has said where it listens.
    """

    refusals: ClassVar[tuple[type[Exception], ...]] = (EngineError,)
    """Errors of the provider that are answers; any other is a fault."""
    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    """Status of such an answer."""

    def __init__(
        self, name: str, version: str, make: Callable[[Callable[[str], None]], Provider], log: Callable[[str], None]
    ) -> None:
        self._name, self._version, self._log = name, version, log
        self._provider = make(self._note)
        self._engine: engine_pb2_grpc.EngineStub | None = None

    # -- meeting the engine ----------------------------------------------------------------------------------------

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self._version)

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
        return _checked(*self._provider.check_config(request.urn, olds, news))

    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        olds, news = from_struct(request.olds), from_struct(request.news)
        return _differing(self._provider.diff_config(request.urn, olds, news))

    def Configure(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.ConfigureResponse:
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, acceptResources=True, acceptOutputs=False, supportsPreview=True
        )

    # -- resources -------------------------------------------------------------------------------------------------

    def Check(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        olds, news = from_struct(request.olds), from_struct(request.news)
        return _checked(*self._guarded(context, lambda: self._provider.check(request.urn, olds, news)))

    def Diff(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        olds, inputs, news = from_struct(request.olds), from_struct(request.old_inputs), from_struct(request.news)
        ignored = list(request.ignoreChanges)
        return _differing(
            self._guarded(context, lambda: self._provider.diff(request.urn, request.id, inputs, olds, news, ignored))
        )

    def Create(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.CreateResponse:
        inputs = from_struct(request.properties)
        outcome = self._made(
            context, lambda: self._provider.create(request.urn, inputs, request.timeout, request.preview)
        )
        return provider_pb2.CreateResponse(id=outcome.id, properties=to_struct(outcome.outputs))

    def Read(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.ReadResponse:
        inputs, known = from_struct(request.inputs), from_struct(request.properties)
        outcome = self._made(context, lambda: self._provider.read(request.urn, request.id, inputs, known, 0))
        if not outcome.id:
            return provider_pb2.ReadResponse()
        return provider_pb2.ReadResponse(id=outcome.id, properties=to_struct(outcome.outputs), inputs=request.inputs)

    def Update(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.UpdateResponse:
        old = Existing(request.urn, request.id, from_struct(request.old_inputs), from_struct(request.olds))
        news, ignored = from_struct(request.news), list(request.ignoreChanges)
        outcome = self._made(
            context, lambda: self._provider.update(old, news, request.timeout, ignored, request.preview)
        )
        return provider_pb2.UpdateResponse(properties=to_struct(outcome.outputs))

    def Delete(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        old = Existing(request.urn, request.id, from_struct(request.old_inputs), from_struct(request.properties))
        self._guarded(context, lambda: self._provider.delete(old, request.timeout))
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.InvokeResponse:
        arguments = from_struct(request.args)
        result, failures = self._guarded(context, lambda: self.invoke(request.tok, arguments, request.preview))
        response = provider_pb2.InvokeResponse(failures=_failures(failures))
        getattr(response, "return").CopyFrom(to_struct(result))
        return response

    def invoke(self, function: str, arguments: Props, preview: bool) -> tuple[Props, list[Failure]]:
        """Return a function's result, or what is wrong with its arguments."""
        return self._provider.invoke(function, arguments, preview)

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self._provider.cancel()
        return empty_pb2.Empty()

    # -- parts -----------------------------------------------------------------------------------------------------

    def _note(self, sentence: str) -> None:
        if self._engine is None:
            self._log(sentence)
            return
        with suppress(grpc.RpcError):
            self._engine.Log(engine_pb2.LogRequest(severity=engine_pb2.INFO, message=sentence))

    def _guarded(self, context: grpc.ServicerContext, act: Callable[[], T]) -> T:
        try:
            return act()
        except self.refusals as error:
            context.abort(self.code, str(error))
            raise

    def _made(self, context: grpc.ServicerContext, act: Callable[[], Outcome]) -> Outcome:
        outcome = self._guarded(context, act)
        if outcome.init_errors:
            _not_ready(context, outcome)
        return outcome


def _not_ready(context: grpc.ServicerContext, outcome: Outcome) -> NoReturn:
    detail = provider_pb2.ErrorResourceInitFailed(
        id=outcome.id, properties=to_struct(outcome.outputs), reasons=outcome.init_errors
    )
    words = "; ".join(outcome.init_errors)
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=words)
    status.details.add().Pack(detail)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.UNKNOWN, words)
    raise AssertionError("abort raises")


def _checked(inputs: Props, failures: list[Failure]) -> provider_pb2.CheckResponse:
    return provider_pb2.CheckResponse(inputs=to_struct(inputs), failures=_failures(failures))


def _differing(found: Diff) -> provider_pb2.DiffResponse:
    return provider_pb2.DiffResponse(
        changes=_CHANGES[found.changes],
        replaces=list(found.replaces),
        diffs=list(found.changed),
        deleteBeforeReplace=found.delete_before_replace,
    )


def _failures(failures: list[Failure]) -> list[provider_pb2.CheckFailure]:
    return [provider_pb2.CheckFailure(property=item.property, reason=item.reason) for item in failures]


def listen(service: ProviderService, engine: str = "") -> tuple[grpc.Server, int]:
    """Serve on a free port of loopback, notes to the engine at an address if there is one; returns server and port."""
    service.attach(engine)
    server = grpc.server(ThreadPoolExecutor(THREADS, "provider"), options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)])
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port
