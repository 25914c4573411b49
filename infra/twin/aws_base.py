"""What the twin's types of AWS have in common: an item of the store each, whose effects follow from the store.

create, update -> the item's inputs are written down -> `apply` brings the machine to what the store says
delete         -> `refuse_delete` -> `clear` -> the item is dropped -> `applied`
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from infra.engine.providers import Failure
from infra.twin.aws_forms import REGION, REGIONS, tagged
from infra.twin.forms import one_of
from infra.twin.interface import Call, Json, Made, TwinError, TwinType
from infra.twin.site import Site
from infra.twin.store import Item


def required(site: Site, token: str, id_: str, code: str = "") -> Item:
    """Return an item. Raises TwinError, with the API's code, when it is not there."""
    item = site.store.get(token, id_)
    if item is None:
        kind = token.rpartition(":")[2]
        raise TwinError(f"{code or f'Invalid{kind}ID.NotFound'}: The {kind} {id_!r} does not exist")
    return item


def inputs_of(item: Item) -> Json:
    """The inputs that an item has now."""
    found: Json = item.data["inputs"]
    return found


class AwsType(TwinType):
    """A type whose instances are items of the store."""

    has_tags: ClassVar[bool] = True
    has_region: ClassVar[bool] = True
    wanted: ClassVar[tuple[str, ...]] = ()
    """Inputs that the SDK leaves open and the twin needs."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if cls.has_tags:
            cls.in_place = cls.in_place | {"tags"}
        if cls.has_region:
            cls.force_new = cls.force_new | {"region"}

    # -- what a type says of itself --------------------------------------------------------------------------------

    @abstractmethod
    def identify(self, call: Call, number: int, inputs: Json) -> str:
        """Return the id of a new item."""

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        """Return what a new item keeps beside its inputs; under the store's lock, so what it allocates is its own.

        Raises:
            TwinError: the API would refuse it beside what is there.
        """
        return {}

    @abstractmethod
    def outputs(self, call: Call, item: Item) -> Json:
        """Return the outputs beside the inputs."""

    def apply(self, call: Call, item: Item) -> None:
        """Bring the machine to what the item says."""

    def there(self, call: Call, item: Item) -> bool:
        """Whether what the item stands for is there."""
        return True

    def refuse_delete(self, call: Call, item: Item) -> None:
        """Raise TwinError where the API would not let it go."""

    def clear(self, call: Call, item: Item) -> None:
        """Remove what the item stands for, if it is there."""

    def applied(self, call: Call, item: Item) -> None:
        """Bring the rest to the store without the item."""

    # -- operations ------------------------------------------------------------------------------------------------

    def validate(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of("region", inputs.get("region"), REGIONS, "region")
        for name in self.wanted:
            if inputs.get(name) is None:
                yield Failure(name, "the twin chooses none: give it")
        yield from self.check_inputs(inputs)

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        """Yield what the provider or the API would refuse of the inputs alone."""
        yield from ()

    def create(self, call: Call, inputs: Json) -> Made:
        def fill(number: int, items: list[Item]) -> tuple[str, Json]:
            return self.identify(call, number, inputs), {"inputs": inputs, **self.begin(call, number, inputs, items)}

        item = call.site.store.begin(call.urn, self.type_name, fill)
        if inputs_of(item) != inputs:  # of a create that was interrupted, before the program was changed
            item = call.site.store.change(item.number, {"inputs": inputs}) or item
        self.apply(call, item)
        return Made(id=item.id, outputs=self._all(call, item))

    def read(self, call: Call, outputs: Json) -> Json | None:
        item = call.site.store.get(self.type_name, call.id)
        return self._all(call, item) if item is not None and self.there(call, item) else None

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        item = required(call.site, self.type_name, call.id)
        item = call.site.store.change(item.number, {"inputs": self.kept(item, news)}) or item
        self.apply(call, item)
        return self._all(call, item)

    def kept(self, item: Item, news: Json) -> Json:
        """What an update makes of the inputs."""
        return news

    def delete(self, call: Call, outputs: Json, inputs: Json) -> None:
        item = call.site.store.get(self.type_name, call.id)
        if item is not None:
            self.refuse_delete(call, item)
            self.clear(call, item)
            call.site.store.drop(item.number)
            self.applied(call, item)

    def _all(self, call: Call, item: Item) -> Json:
        inputs = inputs_of(item)
        region = {"region": inputs.get("region") or REGION} if self.has_region else {}
        return {**inputs, **region, **(tagged(inputs) if self.has_tags else {}), **self.outputs(call, item)}
