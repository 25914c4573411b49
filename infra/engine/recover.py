"""What an interrupted run left under way is done again before anything else: nothing is lost, nothing is orphaned.

Only for providers whose operations may be repeated (idempotent ones). Of others the operation is reported; a create
stays in the state until someone has looked.
"""

from infra.engine import urn as urns
from infra.engine.errors import EngineError
from infra.engine.events import Diagnostic, EventSink, Severity
from infra.engine.providers import Existing
from infra.engine.registry import Registry
from infra.engine.snapshot import Snapshot
from infra.engine.state import PendingOperation, ResourceState, now


class Recovery:
    """Settles pending operations.

    Args:
        idempotent: type prefixes of resources whose operations may be repeated.
    """

    def __init__(self, snapshot: Snapshot, registry: Registry, emit: EventSink, idempotent: tuple[str, ...]) -> None:
        self._snapshot, self._registry, self._emit = snapshot, registry, emit
        self._idempotent = idempotent
        self.unsettled: list[PendingOperation] = []

    def run(self) -> None:
        """Retries or reports every pending operation of the state."""
        for operation in self._snapshot.deployment().pending:
            state = operation.resource
            if state.type.startswith(self._idempotent):
                self._retry(operation)
            else:
                self._report(operation)

    def _retry(self, operation: PendingOperation) -> None:
        state, what = operation.resource, f"{operation.kind} {operation.resource.urn}"
        act = {"creating": self._create, "updating": self._update, "deleting": self._delete}.get(operation.kind)
        try:
            if act is not None:
                act(state)
        except EngineError as error:
            self.unsettled.append(operation)
            self._say(
                Severity.WARNING, f"The last run was interrupted while {what}; doing it again failed: {error}", state
            )
            return
        self._snapshot.end(operation)
        self._snapshot.save()
        if act is not None:
            self._say(Severity.INFO, f"The last run was interrupted while {what}; that has been done again.", state)

    def _create(self, state: ResourceState) -> None:
        timeout = state.custom_timeouts.get("create", 0.0)
        outcome = self._registry.find(state).create(state.urn, state.inputs, timeout, False)
        made = state.copy()
        made.id, made.outputs, made.init_errors = outcome.id, outcome.outputs, list(outcome.init_errors)
        made.created = made.modified = now()
        before = self._live(state.urn)
        if before is not None and before.pending_replacement:
            self._snapshot.restore(made, supersedes=before)
            return
        if before is not None:
            # It was to replace this one, which therefore goes at the end of the next run.
            self._snapshot.change(before, lambda old: setattr(old, "delete", True))
        self._snapshot.restore(made)

    def _update(self, state: ResourceState) -> None:
        before = self._live(state.urn)
        if before is None:
            return
        timeout = state.custom_timeouts.get("update", 0.0)
        old = Existing(before.urn, before.id, before.inputs, before.outputs)
        outcome = self._registry.find(state).update(old, state.inputs, timeout, state.ignore_changes, False)

        def take(recorded: ResourceState) -> None:
            recorded.inputs, recorded.outputs = state.inputs, outcome.outputs
            recorded.init_errors, recorded.modified = list(outcome.init_errors), now()

        self._snapshot.change(before, take)

    def _delete(self, state: ResourceState) -> None:
        before = next(
            (item for item in self._snapshot.deployment().resources
             if (item.urn, item.id, item.delete) == (state.urn, state.id, state.delete)), None,
        )  # fmt: skip
        if before is None:
            return
        timeout = before.custom_timeouts.get("delete", 0.0)
        self._registry.find(before).delete(Existing(before.urn, before.id, before.inputs, before.outputs), timeout)
        if before.delete:
            self._snapshot.drop(before)
        else:
            # It is gone, but others may still refer to it: the next up makes it anew or forgets it.
            self._snapshot.change(before, lambda old: setattr(old, "pending_replacement", True))

    def _live(self, urn: str) -> ResourceState | None:
        resources = self._snapshot.deployment().resources
        return next((item for item in resources if item.urn == urn and not item.delete), None)

    def _report(self, operation: PendingOperation) -> None:
        state, name = operation.resource, urns.name_of(operation.resource.urn)
        message = f"The last run was interrupted while {operation.kind} {state.urn}"
        if operation.kind == "creating":
            self.unsettled.append(operation)
            self._say(
                Severity.WARNING,
                f"{message}: it may exist without being in the state. Look for {state.type} {name!r}; then take it "
                "out of pending_operations (stack export, stack import).",
                state,
            )
            return
        self._snapshot.end(operation)
        self._snapshot.save()
        self._say(Severity.WARNING, f"{message}: run refresh if it is not as recorded.", state)

    def _say(self, severity: Severity, message: str, state: ResourceState) -> None:
        self._emit(Diagnostic(severity=severity, message=message, urn=state.urn))
