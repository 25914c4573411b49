"""What the engine asks of a provider, and the provider that is spoken to over `pulumirpc.ResourceProvider`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2

from infra.engine.errors import ResourceError
from infra.engine.props import Props, for_provider, from_struct, mark_secrets, to_struct
from infra.engine.urn import name_of, type_of


@dataclass(frozen=True, slots=True)
class Failure:
    """A property that a provider refuses, and why."""

    property: str
    reason: str


@dataclass(frozen=True, slots=True)
class Diff:
    """What a provider says about a change.

    Attributes:
        changes: None when the provider leaves the decision to a comparison of inputs.
        replaces: properties whose change needs a new resource.
        changed: properties that differ, where the provider lists them.
        delete_before_replace: the old one must go before the new one comes.
    """

    changes: bool | None
    replaces: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    delete_before_replace: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a create, read or update left behind; `init_errors` when it exists but is not ready."""

    id: str
    outputs: Props
    inputs: Props | None = None
    init_errors: tuple[str, ...] = field(default=())


class OutcomeUnknown(ResourceError):
    """The provider was lost while it worked: whether the operation took place is not known."""


class Provider(Protocol):
    """CRUD of one package. Property values are the engine's; secrets open and marked."""

    def check_config(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        """Validates the provider's own configuration."""

    def diff_config(self, urn: str, olds: Props, news: Props) -> Diff:
        """What a change of its configuration means."""

    def configure(self, urn: str, id_: str, inputs: Props) -> None:
        """Gives the configuration; called once, before anything below."""

    def check(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        """Validates inputs and fills in defaults; olds are empty for a new resource."""

    def diff(self, urn: str, id_: str, old_inputs: Props, old_outputs: Props, news: Props, ignored: list[str]) -> Diff:
        """What a change of inputs means."""

    def create(self, urn: str, inputs: Props, timeout_s: float, preview: bool) -> Outcome:
        """Makes the resource."""

    def read(self, urn: str, id_: str, inputs: Props, outputs: Props, timeout_s: float) -> Outcome:
        """Reads the resource as it is; an empty id says that there is none."""

    def update(self, old: "Existing", news: Props, timeout_s: float, ignored: list[str], preview: bool) -> Outcome:
        """Changes the resource in place."""

    def delete(self, old: "Existing", timeout_s: float) -> None:
        """Removes the resource."""

    def invoke(self, function: str, args: Props, preview: bool) -> tuple[Props, list[Failure]]:
        """Calls a function of the package."""

    def cancel(self) -> None:
        """Asks operations under way to come to an end."""

    def close(self) -> None:
        """Ends the provider and its process."""


@dataclass(frozen=True, slots=True)
class Existing:
    """A resource as the state knows it."""

    urn: str
    id: str
    inputs: Props
    outputs: Props


class GrpcProvider:
    """A provider in another process.

    Args:
        package: the name, for messages.
        channel: where it listens.
        on_close: ends the process behind the channel.
    """

    def __init__(self, package: str, channel: grpc.Channel, on_close: Callable[[], None]) -> None:
        self._package = package
        self._channel = channel
        self._on_close = on_close
        self._stub = provider_pb2_grpc.ResourceProviderStub(channel)
        self._secrets = self._references = self._previews = False
        self._configured = False

    def handshake(self, engine: str, root: Path, program: Path) -> None:
        """Tells a plugin where the engine, its own files and the program are; older plugins do without."""
        request = provider_pb2.ProviderHandshakeRequest(
            engine_address=engine, root_directory=str(root), program_directory=str(program), configure_with_urn=True,
            invoke_with_preview=True,
        )  # fmt: skip
        self._call("Handshake", request, optional=True)

    def check_config(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        request = provider_pb2.CheckRequest(
            urn=urn, name=name_of(urn), type=type_of(urn), olds=to_struct(olds), news=to_struct(news)
        )
        response = self._call("CheckConfig", request, optional=True)
        if response is None:
            return news, []
        return mark_secrets(from_struct(response.inputs), news), _failures(response.failures)

    def diff_config(self, urn: str, olds: Props, news: Props) -> Diff:
        request = provider_pb2.DiffRequest(
            urn=urn, name=name_of(urn), type=type_of(urn), olds=to_struct(olds), news=to_struct(news)
        )
        response = self._call("DiffConfig", request, optional=True)
        return Diff(None) if response is None else _diff(response)

    def configure(self, urn: str, id_: str, inputs: Props) -> None:
        request = provider_pb2.ConfigureRequest(
            args=to_struct(inputs), acceptSecrets=True, acceptResources=True, sends_old_inputs=True,
            sends_old_inputs_to_delete=True, urn=urn, id=id_, name=name_of(urn), type=type_of(urn),
        )  # fmt: skip
        response = self._call("Configure", request)
        self._secrets, self._references = response.acceptSecrets, response.acceptResources
        self._previews = response.supportsPreview
        self._configured = True

    def check(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        if not self._configured:
            return news, []
        request = provider_pb2.CheckRequest(
            urn=urn, name=name_of(urn), type=type_of(urn), olds=self._give(olds), news=self._give(news)
        )
        response = self._call("Check", request)
        return mark_secrets(from_struct(response.inputs), news), _failures(response.failures)

    def diff(self, urn: str, id_: str, old_inputs: Props, old_outputs: Props, news: Props, ignored: list[str]) -> Diff:
        if not self._configured:
            return Diff(None)
        request = provider_pb2.DiffRequest(
            id=id_, urn=urn, name=name_of(urn), type=type_of(urn), olds=self._give(old_outputs),
            news=self._give(news), old_inputs=self._give(old_inputs), ignoreChanges=ignored,
        )  # fmt: skip
        return _diff(self._call("Diff", request))

    def create(self, urn: str, inputs: Props, timeout_s: float, preview: bool) -> Outcome:
        if preview and not self._previews:
            return Outcome("", inputs)
        request = provider_pb2.CreateRequest(
            urn=urn, name=name_of(urn), type=type_of(urn), properties=self._give(inputs), timeout=timeout_s,
            preview=preview,
        )  # fmt: skip
        try:
            response = self._call("Create", request)
        except _InitFailed as failure:
            return failure.outcome(inputs)
        if not response.id and not preview:
            raise ResourceError(f"provider {self._package} created {name_of(urn)!r} without giving it an id")
        return Outcome(response.id, mark_secrets(from_struct(response.properties), inputs))

    def read(self, urn: str, id_: str, inputs: Props, outputs: Props, timeout_s: float) -> Outcome:
        request = provider_pb2.ReadRequest(
            id=id_, urn=urn, name=name_of(urn), type=type_of(urn), inputs=self._give(inputs),
            properties=self._give(outputs), timeout=timeout_s,
        )  # fmt: skip
        try:
            response = self._call("Read", request)
        except _InitFailed as failure:
            return failure.outcome(inputs)
        marks = {**outputs, **inputs}
        given = mark_secrets(from_struct(response.inputs), inputs) if response.HasField("inputs") else None
        return Outcome(response.id, mark_secrets(from_struct(response.properties), marks), given)

    def update(self, old: Existing, news: Props, timeout_s: float, ignored: list[str], preview: bool) -> Outcome:
        if preview and not self._previews:
            return Outcome(old.id, news)
        request = provider_pb2.UpdateRequest(
            id=old.id, urn=old.urn, name=name_of(old.urn), type=type_of(old.urn), olds=self._give(old.outputs),
            old_inputs=self._give(old.inputs), news=self._give(news), timeout=timeout_s, ignoreChanges=ignored,
            preview=preview,
        )  # fmt: skip
        try:
            response = self._call("Update", request)
        except _InitFailed as failure:
            return failure.outcome(news)
        return Outcome(old.id, mark_secrets(from_struct(response.properties), news))

    def delete(self, old: Existing, timeout_s: float) -> None:
        request = provider_pb2.DeleteRequest(
            id=old.id, urn=old.urn, name=name_of(old.urn), type=type_of(old.urn), properties=self._give(old.outputs),
            old_inputs=self._give(old.inputs), timeout=timeout_s,
        )  # fmt: skip
        self._call("Delete", request)

    def invoke(self, function: str, args: Props, preview: bool) -> tuple[Props, list[Failure]]:
        request = provider_pb2.InvokeRequest(tok=function, args=self._give(args), preview=preview)
        response = self._call("Invoke", request)
        return from_struct(getattr(response, "return")), _failures(response.failures)

    def cancel(self) -> None:
        self._call("Cancel", empty_pb2.Empty(), optional=True)

    def close(self) -> None:
        self._channel.close()
        self._on_close()

    def _give(self, props: Props) -> Any:
        return to_struct(for_provider(props, secrets=self._secrets, references=self._references))

    def _call(self, method: str, request: Any, optional: bool = False) -> Any:
        try:
            return getattr(self._stub, method)(request)
        except ValueError as error:
            # What grpc raises on a channel that has been closed: the call was not made.
            raise ResourceError(f"provider {self._package} has been closed: {error}") from None
        except grpc.RpcError as error:
            # Every error a stub raises is a call as well; the published types do not say so.
            call: Any = error
            code, details = call.code(), call.details() or call.code().name
            if optional and code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN):
                return None
            failed = _init_failed(error)
            if failed:
                raise failed from None
            if code is grpc.StatusCode.UNIMPLEMENTED:
                raise ResourceError(f"provider {self._package} does not implement {method}") from None
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise OutcomeUnknown(f"provider {self._package} was lost during {method}: {details}") from None
            raise ResourceError(details.rstrip()) from None


class _InitFailed(Exception):
    def __init__(self, detail: provider_pb2.ErrorResourceInitFailed) -> None:
        super().__init__(", ".join(detail.reasons))
        self._detail = detail

    def outcome(self, inputs: Props) -> Outcome:
        return Outcome(
            self._detail.id,
            mark_secrets(from_struct(self._detail.properties), inputs),
            init_errors=tuple(self._detail.reasons) or ("the resource exists but is not ready",),
        )


def _init_failed(error: grpc.RpcError) -> _InitFailed | None:
    """A resource that exists but is not ready travels as detail of the error status."""
    call: Any = error
    for key, value in call.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        status = status_pb2.Status.FromString(value)
        for packed in status.details:
            if packed.Is(provider_pb2.ErrorResourceInitFailed.DESCRIPTOR):
                detail = provider_pb2.ErrorResourceInitFailed()
                packed.Unpack(detail)
                return _InitFailed(detail)
    return None


def _failures(failures: Any) -> list[Failure]:
    return [Failure(item.property, item.reason) for item in failures]


def _diff(response: provider_pb2.DiffResponse) -> Diff:
    kinds = {provider_pb2.DiffResponse.DIFF_NONE: False, provider_pb2.DiffResponse.DIFF_SOME: True}
    changed = tuple(response.detailedDiff) or tuple(response.diffs)
    return Diff(kinds.get(response.changes), tuple(response.replaces), changed, response.deleteBeforeReplace)
