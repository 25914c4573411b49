"""What a resource type of a cloud is to the twin: one class each, and what it is given to work with.

    check      -> argcheck (SDK's types), then the table below, then `validate`
    diff       -> inputs compared; `force_new` is the real provider's own table
    create     -> `create`, which may be called again for the same resource after a kill -9 and makes nothing twice
    read       -> `read`: what is really there; None when it is gone
    update     -> `update` in place; a type whose every property is in `force_new` has none
    delete     -> `delete`; what is gone already is no error

A property is in `force_new` or `in_place`, or taken without effect in `left_out`; one in none is refused by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from infra.engine.errors import ResourceError
from infra.engine.props import UNKNOWN, Props
from infra.engine.providers import Failure

if TYPE_CHECKING:
    from infra.twin.site import Site

Json = dict[str, Any]


class TwinError(ResourceError):
    """The twin cannot do it; the text says what, why, and the remedy."""


class NotReady(TwinError):
    """What was made or changed is there and does not work yet: it is kept, and the next `up` goes on with it.

    Args:
        made: what there is.
        reason: what it waits for.
    """

    def __init__(self, made: "Made", reason: str) -> None:
        super().__init__(reason)
        self.made = made
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A property that the twin takes and does nothing about.

    Attributes:
        why: what is not modelled; printed in the list of what the twin leaves out.
        harmless: values of which nothing is left out, so that they are not worth a line.
    """

    why: str
    harmless: tuple[Any, ...] = (None, False, "", 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A resource that is there: the provider's id, and all outputs by the provider's names."""

    id: str
    outputs: Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What an operation is about.

    Attributes:
        site: the world of this stack: its lab, the records of what has been made, addresses.
        urn: the resource's URN.
        name: its name in the program.
        id: the provider's id; empty for a create.
    """

    site: "Site"
    urn: str
    name: str
    id: str = ""


class TwinType(ABC):
    """A resource type. Subclasses fill in the tables and the operations; inputs are plain, secrets open."""

    type_name: ClassVar[str]
    """As in `digitalocean:index/droplet:Droplet`."""
    force_new: ClassVar[frozenset[str]] = frozenset()
    """Properties whose change replaces the resource (`ForceNew` of the real provider, whose source is named)."""
    in_place: ClassVar[frozenset[str]] = frozenset()
    """Properties that are modelled and change in place."""
    left_out: ClassVar[Mapping[str, LeftOut]] = {}
    """Properties that are taken without effect, and why."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """What the real provider's Check fills in."""
    autoname: ClassVar[str] = ""
    """The property that gets the resource's name with a random end when the program gives none."""
    delete_before_replace: ClassVar[bool] = False
    secret_outputs: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[tuple[str, ...]] = ()
    """What of the real thing is not modelled, one sentence each; printed in the list."""
    model: ClassVar[str] = ""
    """What stands for the resource on this machine, one sentence; printed in docs/twin.md."""

    def validate(self, inputs: Json) -> Iterator[Failure]:
        """Yield what the real provider or API would refuse; unknown values (UNKNOWN) are to be passed over."""
        yield from ()

    def notes(self, name: str, inputs: Json) -> Iterator[str]:
        """Yield what is left out of these inputs beyond the table; each sentence is printed once."""
        yield from ()

    @abstractmethod
    def create(self, call: Call, inputs: Json) -> Made:
        """Make it, or go on making it where an interrupted call stopped. Raises NotReady where it does not work yet."""

    @abstractmethod
    def read(self, call: Call, outputs: Json) -> Json | None:
        """Return its outputs as it is now; None when it is not there any more."""

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        """Bring it to the new inputs in place and return its outputs. Raises NotReady likewise.

        A type that has properties outside of `force_new` has its own.
        """
        raise TwinError(f"nothing of {self.type_name} changes in place: a fault of its table in the twin")

    @abstractmethod
    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        """Remove it, if it is there."""

    def replaces(self, changed: frozenset[str], olds: Json, news: Json) -> frozenset[str]:
        """Return which of the changed properties need another resource; by table unless a type knows better."""
        return changed & self.force_new

    def computed(self, olds: Json, news: Json) -> frozenset[str]:
        """Return the outputs that an update in place may change: unknown in its preview."""
        return frozenset()

    @classmethod
    def properties(cls) -> frozenset[str]:
        """Every input property that the type takes."""
        return cls.force_new | cls.in_place | frozenset(cls.left_out)


class TwinFunction(ABC):
    """A function of a package (a data source)."""

    type_name: ClassVar[str]
    arguments: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def call(self, site: "Site", arguments: Json) -> Props:
        """Return its result."""


def known(value: Any) -> bool:
    """Whether a value is given and is not the unknown of a preview."""
    return value is not None and value != UNKNOWN
