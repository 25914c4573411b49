"""Runs a Pulumi program against a recorder instead of an engine, and keeps what it registered as a plain list."""

import asyncio
import contextvars
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi.runtime import mocks

Computed = Mapping[str, Any] | Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Registered:
    """One resource as the program asked for it."""

    type: str
    name: str
    inputs: dict[str, Any]
    is_component: bool


@dataclass(slots=True)
class Recorder(pulumi.runtime.Mocks):
    """Gives every resource its inputs back as outputs, with computed ones added by type.

    Computed ones are a mapping, or a function of the resource's name and inputs that returns one; `id` among them is
    the resource's id.
    """

    computed: Mapping[str, Computed] = field(default_factory=dict)
    calls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resources: list[Registered] = field(default_factory=list)
    parents: dict[str, str] = field(default_factory=dict)

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        """Record one registration."""
        self.resources.append(Registered(args.typ, args.name, dict(args.inputs), not args.custom))
        computed = self.computed.get(args.typ, {})
        made = {**args.inputs, **(computed(args.name, args.inputs) if callable(computed) else computed)}
        return str(made.pop("id", f"{args.name}-id")), made

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        """Answer the provider's functions that a test foresees; refuse all others."""
        if args.token not in self.calls:
            raise AssertionError(f"unexpected call of {args.token}")
        return {**args.args, **self.calls[args.token]}, []

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return inputs by resource name of one type, told by the last part of its token."""
        return {found.name: found.inputs for found in self.resources if found.type.rpartition(":")[2] == kind}


class Monitor(mocks.MockMonitor):
    """The SDK's mock monitor, which also notes the parent of each resource (MockResourceArgs lacks it)."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._recorder = recorder

    def RegisterResource(self, request: Any) -> Any:
        """Note the parent, then go on."""
        self._recorder.parents[request.name] = request.parent
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]  # the SDK leaves it untyped


def record(
    program: Callable[[], Any],
    *,
    stack: str = "lab",
    config: Mapping[str, str] | None = None,
    computed: Mapping[str, Computed] | None = None,
    calls: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Recorder, Any]:
    """Run a program and return what it registered, and its result with every output resolved.

    `calls` are answers to functions of providers, by token.
    """
    recorder = Recorder(computed or {}, calls or {})
    results: list[Any] = []

    def run() -> None:
        mocks.set_mocks(recorder, project="ztna", stack=stack, preview=False, monitor=Monitor(recorder))
        pulumi.runtime.set_all_config(dict(config or {}))
        body = mocks.test(lambda: pulumi.Output.from_input(program()).apply(results.append))  # type: ignore[no-untyped-call]
        body()

    # A context of its own, since the SDK keeps the root resource in a context variable.
    with closing_event_loops():
        contextvars.copy_context().run(run)
    return recorder, results[0]


@contextmanager
def closing_event_loops() -> Iterator[None]:
    """Close every event loop made meanwhile: the SDK makes several and closes none, which pytest takes for a leak."""
    made: list[asyncio.AbstractEventLoop] = []

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            made.append(super().new_event_loop())
            return made[-1]

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(Policy())
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        asyncio.set_event_loop_policy(before)
        for loop in made:
            loop.close()
