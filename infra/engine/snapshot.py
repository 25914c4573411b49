"""The state while an operation runs: changed step by step, written before and after each.

Order in the file: what this run has registered, in the order it finished, then what is left of the last run. Each part
keeps dependencies before dependents, and the first never refers to the second.
"""

import json
import threading
from collections.abc import Callable

from infra.engine.secrets import Crypter
from infra.engine.state import Deployment, PendingOperation, ResourceState, manifest, resource_to_json


class Snapshot:
    """Thread-safe, evolving state of a stack.

    Args:
        write: takes the deployment's JSON text and makes it durable; None in a preview.
    """

    def __init__(self, deployment: Deployment, crypter: Crypter, write: Callable[[str], None] | None) -> None:
        self._base = list(deployment.resources)
        self._new: list[ResourceState] = []
        self._gone: set[ResourceState] = set()
        self._pending = list(deployment.pending)
        self._names: dict[str, str] = {}
        self._texts: dict[ResourceState, str] = {}
        self._crypter = crypter
        self._write = write
        self._lock = threading.RLock()
        self._write_lock = threading.Lock()
        self._generation = self._written = 0
        self.writes = 0

    @property
    def base(self) -> list[ResourceState]:
        """The resources the last run left, those dropped since not included."""
        with self._lock:
            return [state for state in self._base if state not in self._gone]

    def deployment(self) -> Deployment:
        """The state as it is now."""
        with self._lock:
            rest = [state.renamed(self._names) for state in self._base if state not in self._gone]
            return Deployment([state for state in self._new if state not in self._gone] + rest, list(self._pending))

    def begin(self, state: ResourceState, kind: str) -> PendingOperation:
        """Records that an operation (creating, updating, deleting, reading) is under way, durably."""
        operation = PendingOperation(state, kind)
        with self._lock:
            self._pending.append(operation)
            self._texts.pop(state, None)
        self.save()
        return operation

    def end(self, operation: PendingOperation | None) -> None:
        """Records that it has ended; the caller saves."""
        with self._lock:
            if operation is not None and operation in self._pending:
                self._pending.remove(operation)

    def add(self, new: ResourceState, supersedes: ResourceState | None = None) -> None:
        """Records a resource of this run; the superseded one leaves the state."""
        with self._lock:
            self._new.append(new)
            self._texts.pop(new, None)
            if supersedes is not None:
                self._gone.add(supersedes)
                if supersedes.urn != new.urn:
                    self._names[supersedes.urn] = new.urn
                    self._texts.clear()

    def restore(self, state: ResourceState, supersedes: ResourceState | None = None) -> None:
        """Records a resource as if the last run had left it, in the place of the superseded one."""
        with self._lock:
            if supersedes is None:
                self._base.append(state)
            else:
                self._base[self._base.index(supersedes)] = state

    def drop(self, state: ResourceState) -> None:
        """Takes a resource out of the state."""
        with self._lock:
            self._gone.add(state)

    def prune(self) -> None:
        """Takes references to resources that are no longer in the state out of the others."""
        with self._lock:
            there = {state.urn for state in self.deployment().resources}
            parents = {state.urn: state.parent for state in self._base}
            for state in self.base:
                if all(urn in there for urn in state.references()):
                    continue
                while state.parent and state.parent not in there:
                    state.parent = parents.get(state.parent, "")
                state.dependencies = [urn for urn in state.dependencies if urn in there]
                state.property_dependencies = {
                    key: [urn for urn in urns if urn in there] for key, urns in state.property_dependencies.items()
                }
                if state.deleted_with not in there:
                    state.deleted_with = ""
                self._texts.pop(state, None)

    def change(self, state: ResourceState, mutate: Callable[[ResourceState], None]) -> None:
        """Changes a recorded resource in place."""
        with self._lock:
            mutate(state)
            self._texts.pop(state, None)

    def save(self) -> None:
        """Returns once the present state is durable. Saves that wait for one another share one write."""
        if self._write is None:
            return
        with self._lock:
            self._generation += 1
            mine = self._generation
        with self._write_lock:
            if self._written >= mine:
                return
            with self._lock:
                text, generation = self._render(), self._generation
            self._write(text)
            self.writes += 1
            self._written = generation

    def _render(self) -> str:
        parts = [self._text(state) for state in self._new if state not in self._gone]
        parts += [self._text(state) for state in self._base if state not in self._gone]
        salt = {"type": "passphrase", "state": {"salt": self._crypter.salt_text}}
        head = f'"manifest":{json.dumps(manifest())},"secrets_providers":{json.dumps(salt)}'
        pending = ""
        if self._pending:
            rows = [
                f'{{"resource":{self._text(operation.resource)},"type":"{operation.kind}"}}'
                for operation in self._pending
            ]
            pending = f',"pending_operations":[{",".join(rows)}]'
        return f'{{{head},"resources":[{",".join(parts)}]{pending},"metadata":{{}}}}'

    def _text(self, state: ResourceState) -> str:
        text = self._texts.get(state)
        if text is None:
            data = resource_to_json(state.renamed(self._names), self._crypter)
            text = self._texts[state] = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        return text
