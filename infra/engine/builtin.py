"""The package `pulumi` itself: stack references and `getResource`."""

from collections.abc import Callable

from infra.engine.errors import EngineError, ResourceError, UnsupportedError
from infra.engine.props import Props, has_secret
from infra.engine.providers import Diff, Existing, Failure, Outcome
from infra.engine.state import ResourceState
from infra.engine.urn import STACK_REFERENCE_TYPE, type_of

# Of another stack: its name as the program gives it -> its outputs, secrets open and marked.
StackOutputsReader = Callable[[str], Props]


class BuiltinProvider:
    """Serves what the Pulumi CLI itself serves.

    Args:
        read_stack: the outputs of another stack of this backend.
        find_resource: a resource registered in this run.
    """

    def __init__(self, read_stack: StackOutputsReader, find_resource: Callable[[str], ResourceState | None]) -> None:
        self._read_stack = read_stack
        self._find_resource = find_resource

    def check_config(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        return news, []

    def diff_config(self, urn: str, olds: Props, news: Props) -> Diff:
        return Diff(False)

    def configure(self, urn: str, id_: str, inputs: Props) -> None:
        return None

    def check(self, urn: str, olds: Props, news: Props) -> tuple[Props, list[Failure]]:
        raise UnsupportedError(f"the embedded engine does not model resources of type {type_of(urn)!r}")

    def diff(self, urn: str, id_: str, old_inputs: Props, old_outputs: Props, news: Props, ignored: list[str]) -> Diff:
        return Diff(None)

    def create(self, urn: str, inputs: Props, timeout_s: float, preview: bool) -> Outcome:
        raise UnsupportedError(f"the embedded engine does not model resources of type {type_of(urn)!r}")

    def read(self, urn: str, id_: str, inputs: Props, outputs: Props, timeout_s: float) -> Outcome:
        if type_of(urn) != STACK_REFERENCE_TYPE:
            raise UnsupportedError(f"the embedded engine does not model resources of type {type_of(urn)!r}")
        return Outcome(id_, self._stack_outputs(str(inputs.get("name", id_))))

    def update(self, old: Existing, news: Props, timeout_s: float, ignored: list[str], preview: bool) -> Outcome:
        raise UnsupportedError(f"the embedded engine does not model resources of type {type_of(old.urn)!r}")

    def delete(self, old: Existing, timeout_s: float) -> None:
        return None

    def invoke(self, function: str, args: Props, preview: bool) -> tuple[Props, list[Failure]]:
        if function == "pulumi:pulumi:getResource":
            return self._get_resource(str(args.get("urn", ""))), []
        if function == "pulumi:pulumi:readStackOutputs":
            return self._stack_outputs(str(args.get("name", ""))), []
        raise UnsupportedError(f"the embedded engine has no function {function!r}")

    def cancel(self) -> None:
        return None

    def close(self) -> None:
        return None

    def _stack_outputs(self, name: str) -> Props:
        try:
            outputs = self._read_stack(name)
        except EngineError as error:
            raise ResourceError(f"stack reference {name!r}: {error.message}", error.remedy) from error
        secret_names = sorted(key for key, value in outputs.items() if has_secret(value))
        return {"name": name, "outputs": outputs, "secretOutputNames": secret_names}

    def _get_resource(self, urn: str) -> Props:
        state = self._find_resource(urn)
        if state is None:
            raise ResourceError(f"getResource: this program has not registered {urn!r}")
        return {"urn": urn, "id": state.id, "provider": state.provider, "state": state.outputs}
