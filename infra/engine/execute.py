"""Carries steps out: calls providers, records each result before anything else happens, reports events."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from infra.engine import urn as urns
from infra.engine.deletes import run_at_once, run_in_order
from infra.engine.errors import EngineError, ResourceError
from infra.engine.events import Diagnostic, EventSink, Phase, ResourceStep, Severity
from infra.engine.hooks import HookRunner
from infra.engine.props import changed_paths, mark_secrets
from infra.engine.providers import Existing, Outcome, OutcomeUnknown
from infra.engine.registry import Registry
from infra.engine.snapshot import Snapshot
from infra.engine.state import PendingOperation, ResourceState, now
from infra.engine.steps import Op, Step

T = TypeVar("T")


class StepFailed(EngineError):
    """A step did not succeed; the error has been reported already."""


class Stopped(EngineError):
    """The step was not begun because the operation is stopping."""

    def __init__(self) -> None:
        super().__init__("the operation is stopping")


_COUNTED = {
    Op.SAME: "same",
    Op.CREATE: "create",
    Op.UPDATE: "update",
    Op.REPLACE: "replace",
    Op.DELETE: "delete",
    Op.READ: "read",
    Op.DISCARD: "delete",
}


class Executor:
    """Runs steps, several at once.

    Args:
        parallel: how many provider operations may run at a time.
        preview: nothing is changed; creates and updates return what is known.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        registry: Registry,
        emit: EventSink,
        hooks: HookRunner,
        *,
        parallel: int,
        preview: bool,
    ) -> None:
        self._snapshot, self._registry, self._emit, self._hooks = snapshot, registry, emit, hooks
        self._preview = preview
        self._parallel = max(1, parallel)
        self._slots = threading.Semaphore(self._parallel)
        self._count_lock = threading.Lock()
        self._deleting: set[str] = set()
        self._active = 0
        self._idle = threading.Condition()
        self.stopping = threading.Event()
        self.counts: dict[str, int] = {}
        self.errors = 0
        self.failed_urns: set[str] = set()

    def run(self, step: Step) -> None:
        """Carries a step out.

        Raises:
            Stopped: the operation is stopping; nothing was done.
            StepFailed: the provider failed; the state says what is left.
        """
        with self._slots, self._counted_as_active():
            if self.stopping.is_set():
                raise Stopped
            with self._reported(step):
                self._hooks.run("before", step)
                handler = {
                    Op.SAME: self._same,
                    Op.CREATE: self._create,
                    Op.REPLACE: self._create,
                    Op.UPDATE: self._update,
                    Op.READ: self._read,
                    Op.DELETE: self._delete,
                    Op.DELETE_REPLACED: self._delete,
                    Op.DISCARD: self._discard,
                    Op.REFRESH: self.refresh,
                }[step.op]
                handler(step)
                self._hooks.run("after", step)

    @contextmanager
    def _counted_as_active(self) -> Iterator[None]:
        with self._idle:
            self._active += 1
        try:
            yield
        finally:
            with self._idle:
                self._active -= 1
                self._idle.notify_all()

    def wait_idle(self, gives_up: Callable[[], bool]) -> None:
        """Returns once no step is under way, or when `gives_up` says so."""
        with self._idle:
            while self._active and not gives_up():
                self._idle.wait(0.1)

    @contextmanager
    def _reported(self, step: Step) -> Iterator[None]:
        state, began = step.state, time.monotonic()
        # The second half of a replacement that was created first.
        operation = Op.DELETE_REPLACED if step.op is Op.DELETE and state.delete else step.op

        def report(phase: Phase, message: str = "") -> None:
            duration = None if phase is Phase.STARTED else time.monotonic() - began
            self._emit(
                ResourceStep(
                    phase=phase,
                    operation=operation.value,
                    urn=state.urn,
                    type=state.type,
                    parent=state.parent,
                    name=urns.name_of(state.urn),
                    duration_s=duration,
                    changes=step.changes or step.keys,
                    message=message,
                )
            )

        report(Phase.STARTED)
        try:
            yield
        except Exception as error:
            message = error.message if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
            report(Phase.FAILED, message)
            self.fail(str(error) if isinstance(error, EngineError) else message, state.urn)
            raise StepFailed(message) from error
        self._count(step)
        report(Phase.FINISHED)

    def fail(self, message: str, urn: str = "") -> None:
        """Reports an error; the operation will end as failed."""
        with self._count_lock:
            self.errors += 1
            if urn:
                self.failed_urns.add(urn)
        self._emit(Diagnostic(severity=Severity.ERROR, message=message, urn=urn))

    def _count(self, step: Step) -> None:
        name = step.found or _COUNTED.get(step.op)
        if step.state.delete and step.op is Op.DELETE:
            name = None  # The rest of a replacement, which has been counted.
        default_provider = urns.is_provider(step.state.type) and urns.name_of(step.state.urn).startswith("default")
        if name and not default_provider:
            with self._count_lock:
                self.counts[name] = self.counts.get(name, 0) + 1

    # -- one method per operation ----------------------------------------------------------------------------------

    def _same(self, step: Step) -> None:
        old, new = step.old, step.new
        assert old is not None
        assert new is not None
        new.id, new.outputs = old.id, old.outputs
        if urns.is_provider(new.type):
            self._registry.activate(new)
        self._snapshot.add(new, supersedes=old)
        if _differs(old, new):
            self._snapshot.save()

    def _create(self, step: Step) -> None:
        new, old = step.new, step.old
        assert new is not None
        operation = self._begin(new, "creating") if self._asks_provider(new) else None
        outcome = self._ending(operation, lambda: self._make(new))
        new.id = outcome.id
        self._take(new, outcome)
        new.created = new.modified = now()
        if old is not None and step.keep_old:
            self._snapshot.change(old, _mark_delete)
            self._snapshot.add(new)
        else:
            self._snapshot.add(new, supersedes=old)
        self._snapshot.end(operation)
        self._snapshot.save()
        self._raise_init_errors(new)

    def _make(self, new: ResourceState) -> Outcome:
        if urns.is_provider(new.type):
            new.id = "" if self._preview else str(uuid.uuid4())
            self._registry.activate(new)
            return Outcome(new.id, new.inputs)
        if not new.custom:
            return Outcome("", {})
        timeout = new.custom_timeouts.get("create", 0.0)
        return self._registry.find(new).create(new.urn, new.inputs, timeout, self._preview)

    def _update(self, step: Step) -> None:
        old, new = step.old, step.new
        assert old is not None
        assert new is not None
        new.id = old.id
        # Outputs as they were, until the provider says otherwise: also what a pending operation records.
        new.outputs = old.outputs
        operation = self._begin(new, "updating") if self._asks_provider(new) else None
        outcome = self._ending(operation, lambda: self._alter(old, new))
        self._take(new, outcome)
        new.modified = now()
        self._snapshot.add(new, supersedes=old)
        self._snapshot.end(operation)
        self._snapshot.save()
        self._raise_init_errors(new)

    def _alter(self, old: ResourceState, new: ResourceState) -> Outcome:
        if urns.is_provider(new.type):
            self._registry.activate(new)
            return Outcome(new.id, new.inputs)
        if not new.custom:
            return Outcome("", old.outputs)
        timeout = new.custom_timeouts.get("update", 0.0)
        provider = self._registry.find(new)
        return provider.update(_existing(old), new.inputs, timeout, new.ignore_changes, self._preview)

    def _read(self, step: Step) -> None:
        old, new = step.old, step.new
        assert new is not None
        if new.id:
            timeout = new.custom_timeouts.get("read", 0.0)
            outcome = self._registry.find(new).read(new.urn, new.id, new.inputs, {}, timeout)
            if not outcome.id:
                raise ResourceError(f"{new.type} {urns.name_of(new.urn)!r}: there is no resource with id {new.id!r}")
            new.id = outcome.id
            self._take(new, outcome)
        if old is not None and step.keep_old:
            self._snapshot.change(old, _mark_delete)
            self._snapshot.add(new)
        else:
            self._snapshot.add(new, supersedes=old)
        self._snapshot.save()

    def _delete(self, step: Step) -> None:
        old = step.old
        assert old is not None
        asks = self._asks_provider(old) and not old.external and not old.retain_on_delete and not self._goes_along(old)
        operation = self._begin(old, "deleting") if asks else None
        if asks and not self._preview:
            timeout = old.custom_timeouts.get("delete", 0.0)
            self._ending(operation, lambda: self._registry.find(old).delete(_existing(old), timeout))
        if step.op is Op.DELETE_REPLACED:
            self._snapshot.change(old, _mark_pending_replacement)
        else:
            self._snapshot.drop(old)
        self._snapshot.end(operation)
        self._snapshot.save()

    def _discard(self, step: Step) -> None:
        assert step.old is not None
        self._snapshot.drop(step.old)
        self._snapshot.save()

    def refresh(self, step: Step) -> None:
        """Reads a recorded resource anew; one that is gone leaves the state."""
        old = step.old
        assert old is not None
        timeout = old.custom_timeouts.get("read", 0.0)
        outcome = self._registry.find(old).read(old.urn, old.id, old.inputs, old.outputs, timeout)
        if not outcome.id:
            self._snapshot.drop(old)
            step.found = "delete"
        else:
            before = (old.inputs, old.outputs)

            def take(state: ResourceState) -> None:
                state.id = outcome.id
                self._take(state, outcome)
                if outcome.inputs is not None:
                    state.inputs = outcome.inputs

            self._snapshot.change(old, take)
            step.changes = tuple(changed_paths(before[1], old.outputs)) or tuple(changed_paths(before[0], old.inputs))
            step.found = "update" if step.changes else "same"
            if step.changes:
                old.modified = now()
        self._snapshot.save()

    # -- parts -----------------------------------------------------------------------------------------------------

    def _asks_provider(self, state: ResourceState) -> bool:
        return state.custom and not urns.is_provider(state.type)

    def _goes_along(self, state: ResourceState) -> bool:
        """deletedWith: the resource goes with another that is deleted in this run as well."""
        return bool(state.deleted_with) and state.deleted_with in self._deleting

    def announce_deletes(self, steps: list[Step]) -> None:
        """Tells which URNs are going to be deleted, for deletedWith."""
        self._deleting |= {step.state.urn for step in steps if step.op in (Op.DELETE, Op.DELETE_REPLACED)}

    def _begin(self, state: ResourceState, kind: str) -> PendingOperation:
        return self._snapshot.begin(state, kind)

    def _ending(self, operation: PendingOperation | None, act: Callable[[], T]) -> T:
        """Acts; a failure ends the pending operation, unless nobody knows whether it took place."""
        try:
            return act()
        except OutcomeUnknown:
            raise
        except Exception:
            self._snapshot.end(operation)
            self._snapshot.save()
            raise

    def _take(self, state: ResourceState, outcome: Outcome) -> None:
        state.outputs = mark_secrets(outcome.outputs, {}, state.additional_secret_outputs)
        state.init_errors = list(outcome.init_errors)
        if outcome.init_errors and outcome.inputs is not None:
            state.inputs = outcome.inputs

    def _raise_init_errors(self, state: ResourceState) -> None:
        if state.init_errors:
            raise ResourceError(
                f"{state.type} {urns.name_of(state.urn)!r} exists but is not ready: " + "; ".join(state.init_errors),
                "It is recorded; the next up tries to finish it.",
            )

    def run_deletes(self, steps: list[Step]) -> None:
        """Deletes, given in the order of the state; failures are reported, not raised."""
        self.announce_deletes(steps)
        run_in_order(steps, self._run_quietly, parallel=self._parallel, stopping=self.stopping)

    def _run_quietly(self, step: Step) -> bool:
        try:
            self.run(step)
        except (StepFailed, Stopped):
            return False
        return True

    def run_all(self, steps: list[Step]) -> None:
        """Runs independent steps in parallel; failures are reported, not raised."""
        run_at_once(steps, self._run_quietly, parallel=self._parallel)


def _existing(state: ResourceState) -> Existing:
    return Existing(state.urn, state.id, state.inputs, state.outputs)


def _mark_delete(state: ResourceState) -> None:
    state.delete = True


def _mark_pending_replacement(state: ResourceState) -> None:
    state.pending_replacement = True


def _differs(old: ResourceState, new: ResourceState) -> bool:
    """Whether a step that leaves the resource alone still changes what is recorded of it."""
    return any(
        getattr(old, name) != getattr(new, name)
        for name in (
            "urn", "type", "custom", "provider", "parent", "protect", "inputs", "dependencies", "custom_timeouts",
            "property_dependencies", "retain_on_delete", "deleted_with", "additional_secret_outputs",
            "resource_hooks", "ignore_changes", "replace_on_changes",
        )
    )  # fmt: skip
