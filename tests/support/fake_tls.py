"""The tls provider for programs that are run on mocks: the twin's (infra/twin/tls.py), with what it made kept by name.

As a state does, so that a second program finds the same keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from infra.twin.interface import Call, TwinType
from infra.twin.site import Site
from infra.twin.tls import PACKAGE

SECRET: Final = "4dabf18193072939515e22adb298388d"
"""Key that marks a secret on the wire (Pulumi's resource.proto)."""


def plain(value: Any) -> Any:
    """Return inputs with secrets opened."""
    if isinstance(value, dict):
        return plain(value["value"]) if SECRET in value else {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@dataclass
class FakeTls:
    """Outputs of the provider's four resources by their inputs, for `Recorder.computed`."""

    made: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)

    @property
    def computed(self) -> dict[str, Any]:
        """What computes outputs, by type token."""
        return {kind.type_name: self._kept(kind) for kind in PACKAGE.types}

    def _kept(self, kind: TwinType) -> Any:
        def outputs(name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
            given = plain(dict(inputs))
            key = f"{kind.type_name}:{name}"
            if key not in self.made or self.made[key][0] != given:
                self.made[key] = (given, _make(kind, name, given))
            return self.made[key][1]

        return outputs


def _make(kind: TwinType, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    filled = {**kind.defaults, **given}
    refused = list(kind.validate(filled))
    assert not refused, refused
    # It makes nothing on a machine, so no world is looked at. Inputs are left out: they keep their secrecy.
    made = kind.create(Call(site=Site("none"), urn="", name=name), filled).outputs
    return {key: value for key, value in made.items() if key not in given and value is not None}
