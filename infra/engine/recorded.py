"""What is recorded of a stack's outputs."""

from infra.engine import urn as urns
from infra.engine.backend import StackFile
from infra.engine.errors import StateError
from infra.engine.props import Props
from infra.engine.secrets import Crypter
from infra.engine.state import ResourceState, deployment_from_json, salt_of


def read_outputs(file: StackFile, passphrase: str) -> Props:
    """The recorded outputs of a stack, secrets marked.

    Raises:
        StateError: the stack has no state.
    """
    data = file.read()
    if data is None:
        raise StateError(f"stack {file.stack!r} of project {file.project!r} has no state", "Run `ztna up` first.")
    return stack_outputs(deployment_from_json(data, Crypter(passphrase, salt_of(data))).resources)


def stack_outputs(resources: list[ResourceState]) -> Props:
    """The outputs of the stack's own resource."""
    return next((item.outputs for item in resources if item.type == urns.STACK_TYPE), {})
