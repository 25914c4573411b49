"""What a program's calls mean: registrations become planned and executed steps, in whatever thread they arrive."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

from google.protobuf import empty_pb2
from pulumi.runtime.proto import callback_pb2, provider_pb2, resource_pb2

from infra.engine import goal as goals
from infra.engine import urn as urns
from infra.engine.assets import with_hashes
from infra.engine.errors import EngineError
from infra.engine.execute import Executor, StepFailed, Stopped
from infra.engine.goal import Goal
from infra.engine.hooks import Hook, HookRunner
from infra.engine.preview_provider import UnknownAnswer
from infra.engine.props import UNKNOWN, Props, equal, from_struct, has_unknown, mark_secrets, to_struct
from infra.engine.registry import Registry
from infra.engine.snapshot import Snapshot
from infra.engine.state import ResourceState
from infra.engine.steps import Planner, Step, require_registered
from infra.engine.transforms import Transforms

# Of a package: the configuration of its default provider.
ConfigFor = Callable[[str], Props]


class Registrar:
    """Serves one run of the program.

    Args:
        config_for: the configuration of a package's default provider.
        directory: where relative paths of assets start.
        continue_on_error: a failed resource does not end the run; what depends on it is skipped.
    """

    def __init__(
        self,
        planner: Planner,
        executor: Executor,
        registry: Registry,
        snapshot: Snapshot,
        hooks: HookRunner,
        transforms: Transforms,
        *,
        config_for: ConfigFor,
        directory: Path,
        preview: bool,
        continue_on_error: bool = False,
    ) -> None:
        self._planner, self._executor, self._registry, self._snapshot = planner, executor, registry, snapshot
        self._hooks, self._transforms, self._config_for = hooks, transforms, config_for
        self._directory, self._preview, self._continue = directory, preview, continue_on_error
        # Planning is serial: replacing one resource decides about others.
        self._planning = threading.Lock()
        self.stack_outputs: Props = {}
        self.signalled = threading.Event()
        self.finished = threading.Event()

    # -- resources -------------------------------------------------------------------------------------------------

    def register(self, request: resource_pb2.RegisterResourceRequest) -> resource_pb2.RegisterResourceResponse:
        """Brings one resource to its wanted state and answers with its outputs.

        Raises:
            Stopped: the run is ending; the program should, too.
        """
        try:
            request = self._transforms.apply(request, self._urn_of(request))
            goal = goals.from_request(request)
            goal.inputs = with_hashes(goal.inputs, self._directory)
            steps = self._plan(goal)
            for step in steps:
                self._executor.run(step)
        except StepFailed:
            return self._failed(request)
        except Stopped:
            raise
        except EngineError as error:
            self._executor.fail(str(error), self._urn_of(request))
            return self._failed(request)
        last = steps[-1]
        return self._answer(last.state, is_same=last.op.value == "same")

    def _plan(self, goal: Goal) -> list[Step]:
        with self._planning:
            self._refuse_new_work()
            if goal.custom and not urns.is_provider(goal.type) and not goal.provider:
                goal.provider = self._default_provider(urns.package_of(goal.type), goal.version)
            steps = self._planner.plan(goal)
            self._executor.announce_deletes(steps)
            return steps

    def _refuse_new_work(self) -> None:
        if self._executor.stopping.is_set():
            raise Stopped

    def _default_provider(self, package: str, version: str) -> str:
        """The reference of a package's default provider, which is registered when first wanted. Holds the lock."""
        name = "default" + (f"_{re.sub('[^A-Za-z0-9]', '_', version)}" if version else "")
        goal = Goal(type=urns.PROVIDER_PREFIX + package, name=name, custom=True, inputs=dict(self._config_for(package)))
        if version:
            goal.inputs["version"] = version
        state = self._planner.registered.get(self._planner.urn_of(goal))
        if state is None:
            for step in self._planner.plan(goal):
                self._executor.run(step)
                state = step.state
        assert state is not None
        return urns.provider_reference(state.urn, state.id or UNKNOWN)

    def _answer(self, state: ResourceState, *, is_same: bool) -> resource_pb2.RegisterResourceResponse:
        # A component's outputs may refer to resources that this run has not registered yet.
        outputs = state.outputs if state.custom else {}
        return resource_pb2.RegisterResourceResponse(
            urn=state.urn, id=state.id, object=to_struct(outputs), stable=is_same
        )

    def _urn_of(self, request: resource_pb2.RegisterResourceRequest | resource_pb2.ReadResourceRequest) -> str:
        return self._planner.urn_of(Goal(type=request.type, name=request.name, custom=True, parent=request.parent))

    def _failed(self, request: resource_pb2.RegisterResourceRequest) -> resource_pb2.RegisterResourceResponse:
        """With `continue_on_error` the program learns which resource failed; else everything comes to an end."""
        if not (self._continue and request.supportsResultReporting):
            self._executor.stopping.set()
            raise Stopped
        return resource_pb2.RegisterResourceResponse(urn=self._urn_of(request), result=resource_pb2.FAIL)

    def read(self, request: resource_pb2.ReadResourceRequest) -> resource_pb2.ReadResourceResponse:
        """Reads a resource that someone else owns."""
        goal = Goal(
            type=request.type,
            name=request.name,
            custom=True,
            parent=request.parent,
            inputs=with_hashes(from_struct(request.properties), self._directory),
            provider=request.provider,
            version=request.version,
            dependencies=sorted(request.dependencies),
            additional_secret_outputs=list(request.additionalSecretOutputs),
        )
        try:
            with self._planning:
                self._refuse_new_work()
                goal.provider = goal.provider or self._default_provider(urns.package_of(goal.type), goal.version)
                unknown = request.id == UNKNOWN or has_unknown(goal.inputs)
                step = self._planner.plan_read(goal, "" if unknown else request.id)
            self._executor.run(step)
        except StepFailed:
            self._executor.stopping.set()
            raise Stopped from None
        state = step.state
        return resource_pb2.ReadResourceResponse(urn=state.urn, id=state.id, properties=to_struct(state.outputs))

    def register_outputs(self, request: resource_pb2.RegisterResourceOutputsRequest) -> empty_pb2.Empty:
        """Records the outputs of a component or of the stack."""
        state = require_registered(self._planner.registered, request.urn, "RegisterResourceOutputs")
        outputs = with_hashes(from_struct(request.outputs), self._directory)
        if state.type == urns.STACK_TYPE:
            self.stack_outputs = outputs
        changed = not equal(state.outputs, outputs)

        def take(recorded: ResourceState) -> None:
            recorded.outputs = outputs

        self._snapshot.change(state, take)
        if changed:
            self._snapshot.save()
        return empty_pb2.Empty()

    # -- functions -------------------------------------------------------------------------------------------------

    def invoke(self, request: resource_pb2.ResourceInvokeRequest) -> provider_pb2.InvokeResponse:
        """Calls a function of a package."""
        request = self._transforms.apply_invoke(request)
        package = urns.package_of(request.tok)
        args = from_struct(request.args)
        with self._planning:
            self._refuse_new_work()
            reference = request.provider
            if package != "pulumi" and not reference:
                reference = self._default_provider(package, request.version)
            probe = ResourceState(urn="", type=request.tok, custom=True, provider=reference)
            provider = self._registry.find(probe)
        try:
            result, failures = provider.invoke(request.tok, args, self._preview)
        except UnknownAnswer:
            # The SDK makes every output of it unknown.
            unknown = resource_pb2.ResourceInvokeResponse(unknown=True)
            return unknown  # type: ignore[return-value]
        response = resource_pb2.ResourceInvokeResponse(
            failures=[provider_pb2.CheckFailure(property=item.property, reason=item.reason) for item in failures]
        )
        getattr(response, "return").CopyFrom(to_struct(mark_secrets(result, {})))
        return response  # type: ignore[return-value]

    def add_transform(self, request: callback_pb2.Callback) -> empty_pb2.Empty:
        """Registers a transform of all resources."""
        self._transforms.add(request)
        return empty_pb2.Empty()

    def add_invoke_transform(self, request: callback_pb2.Callback) -> empty_pb2.Empty:
        """Registers a transform of all function calls."""
        self._transforms.add_invoke(request)
        return empty_pb2.Empty()

    def add_hook(self, request: resource_pb2.RegisterResourceHookRequest) -> empty_pb2.Empty:
        """Registers a resource hook."""
        self._hooks.register(request.name, Hook(request.callback, request.on_dry_run, request.ignore_errors))
        return empty_pb2.Empty()

    # -- the end ---------------------------------------------------------------------------------------------------

    def program_done(self) -> None:
        """The program will register nothing more; returns once the run has ended (delete hooks need the program)."""
        self.signalled.set()
        self.finished.wait()
