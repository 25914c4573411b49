"""Resource hooks: functions of the program that run before and after a resource is created, updated or deleted."""

from dataclasses import dataclass

from pulumi.runtime.proto import callback_pb2, resource_pb2

from infra.engine import urn as urns
from infra.engine.callbacks import CallbackClient
from infra.engine.errors import ResourceError
from infra.engine.events import Diagnostic, EventSink, Severity
from infra.engine.props import to_struct
from infra.engine.steps import Op, Step

_VERBS = {
    Op.CREATE: "Create",
    Op.REPLACE: "Create",
    Op.UPDATE: "Update",
    Op.DELETE: "Delete",
    Op.DELETE_REPLACED: "Delete",
}


@dataclass(frozen=True, slots=True)
class Hook:
    """A registered hook.

    Attributes:
        in_preview: runs in previews too.
        ignore_errors: its failure is a warning.
    """

    callback: callback_pb2.Callback
    in_preview: bool
    ignore_errors: bool


class HookRunner:
    """Keeps the hooks of the program and runs those bound to a step's resource."""

    def __init__(self, client: CallbackClient, emit: EventSink, preview: bool) -> None:
        self._client, self._emit, self._preview = client, emit, preview
        self._hooks: dict[str, Hook] = {}

    def register(self, name: str, hook: Hook) -> None:
        """Registers a hook under its name.

        Raises:
            ResourceError: the name is taken.
        """
        if name in self._hooks:
            raise ResourceError(f"a resource hook named {name!r} is registered already")
        self._hooks[name] = hook

    def run(self, when: str, step: Step) -> None:
        """Runs the hooks for a step; `when` is `before` or `after`.

        Raises:
            ResourceError: a hook failed, or is bound but unknown (a destroy does not run the program).
        """
        verb = _VERBS.get(step.op)
        if verb is None:
            return
        for name in step.state.resource_hooks.get(f"{when}{verb}", ()):
            hook = self._hooks.get(name)
            if hook is None:
                raise ResourceError(
                    f"the resource hook {name!r} of {step.state.urn} is not registered",
                    "Hooks run only while the program runs: remove the resource from the program and run up.",
                )
            if not self._preview or hook.in_preview:
                self._call(name, hook, step)

    def _call(self, name: str, hook: Hook, step: Step) -> None:
        old, new, state = step.old, step.new, step.state
        request = resource_pb2.ResourceHookRequest(
            urn=state.urn, id=state.id or (old.id if old else ""), name=urns.name_of(state.urn), type=state.type
        )
        if new is not None:
            request.new_inputs.CopyFrom(to_struct(new.inputs))
            request.new_outputs.CopyFrom(to_struct(new.outputs))
        if old is not None:
            request.old_inputs.CopyFrom(to_struct(old.inputs))
            request.old_outputs.CopyFrom(to_struct(old.outputs))
        answer = self._client.invoke(hook.callback, request.SerializeToString())
        error = resource_pb2.ResourceHookResponse.FromString(answer).error
        if not error:
            return
        message = f"resource hook {name!r}: {error}"
        if not hook.ignore_errors:
            raise ResourceError(message)
        self._emit(Diagnostic(severity=Severity.WARNING, message=message, urn=state.urn))
