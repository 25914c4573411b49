"""What every dynamic resource of the lab does: precise diffs, healing, adoption, stable serialization."""

import base64
from typing import Any

import pytest
from pulumi.dynamic.dynamic import serialize_provider

from components.lab_network import HostProvider, RouterProvider, RunProvider, SegmentProvider
from components.lab_pki import CertificateAuthorityProvider, LeafProvider
from components.lab_process import ProcessProvider
from components.lab_provider import LabProvider, changed_keys, integral, plain

PROVIDERS = (
    RunProvider,
    SegmentProvider,
    RouterProvider,
    HostProvider,
    CertificateAuthorityProvider,
    LeafProvider,
    ProcessProvider,
)


class Shelf(LabProvider):
    """Keeps things on a shelf, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.things: dict[str, Any] = {}

    def ensure(self, props: dict[str, Any], olds: dict[str, Any] | None) -> dict[str, Any]:
        """Put the thing there."""
        self.things[props["name"]] = (props["size"], olds is None)
        return {"place": len(self.things)}

    def exists(self, props: dict[str, Any]) -> bool:
        """Look."""
        return props["name"] in self.things

    def remove(self, props: dict[str, Any]) -> None:
        """Take it away."""
        self.things.pop(props["name"], None)


PROPS = {"run": "r", "rung": "root", "name": "cup", "size": 2, "__provider": "x"}


def test_creating_gives_inputs_and_computed_outputs_under_an_id_that_names_it() -> None:
    shelf = Shelf()
    result = shelf.create(PROPS)
    assert result.id == "r/cup"
    assert result.outs == {"run": "r", "rung": "root", "name": "cup", "size": 2, "place": 1}


def test_what_could_be_made_only_in_part_is_removed_again() -> None:
    class Narrow(Shelf):
        def ensure(self, props: dict[str, Any], olds: dict[str, Any] | None) -> dict[str, Any]:
            super().ensure(props, olds)
            raise OSError("the shelf bends")

    shelf = Narrow()
    with pytest.raises(OSError, match="bends"):
        shelf.create(PROPS)
    assert shelf.things == {}


def test_creating_again_adopts_what_is_there() -> None:
    shelf = Shelf()
    assert shelf.create(PROPS).id == shelf.create(PROPS).id
    assert len(shelf.things) == 1


def test_nothing_changed_and_all_there_is_no_change() -> None:
    shelf = Shelf()
    outs = shelf.create(PROPS).outs
    assert outs is not None
    result = shelf.diff("r/cup", outs | {"size": 2.0}, PROPS | {"__provider": "pickled by another version"})
    assert (result.changes, result.replaces) == (False, [])


def test_a_changed_input_is_an_update_and_a_changed_name_a_replacement() -> None:
    shelf = Shelf()
    outs = shelf.create(PROPS).outs or {}
    update = shelf.diff("r/cup", outs, PROPS | {"size": 3})
    assert (update.changes, update.replaces) == (True, [])
    for key in ("run", "rung", "name"):
        replace = shelf.diff("r/cup", outs, PROPS | {key: "other"})
        assert (replace.changes, replace.replaces, replace.delete_before_replace) == (True, [key], True)


def test_what_has_vanished_is_an_update_that_makes_it_again() -> None:
    shelf = Shelf()
    outs = shelf.create(PROPS).outs or {}
    shelf.things.clear()
    result = shelf.diff("r/cup", outs, PROPS)
    assert (result.changes, result.replaces) == (True, [])
    assert shelf.update("r/cup", outs, PROPS).outs == outs
    assert shelf.things == {"cup": (2, False)}


def test_reading_finds_it_or_says_that_it_is_gone() -> None:
    shelf = Shelf()
    outs = shelf.create(PROPS).outs or {}
    found = shelf.read("r/cup", outs)
    assert (found.id, found.outs) == ("r/cup", outs)
    shelf.things.clear()
    gone = shelf.read("r/cup", outs)
    assert (gone.id, gone.outs) == ("", {})


def test_deleting_twice_is_no_error() -> None:
    shelf = Shelf()
    shelf.create(PROPS)
    shelf.delete("r/cup", PROPS)
    shelf.delete("r/cup", PROPS)
    assert shelf.things == {}


def test_numbers_of_the_wire_are_integers_again_at_any_depth() -> None:
    assert integral({"a": [1.0, 2.5, {"b": 3.0}], "c": True}) == {"a": [1, 2.5, {"b": 3}], "c": True}
    assert isinstance(integral(1.0), int)
    assert plain({"a": (1.0,), "__provider": "x"}) == {"a": [1]}
    assert changed_keys({"a": 1, "b": [1]}, {"a": 1.0, "b": [2], "__provider": "x"}) == ["b"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_provider_is_serialized_by_reference_and_always_alike(provider: type[LabProvider]) -> None:
    text = serialize_provider(provider())
    assert text == serialize_provider(provider())
    pickled = base64.b64decode(text)
    assert provider.__name__.encode() in pickled
    assert len(pickled) < 200, "code was embedded: the state would change with every edit"
    assert not provider.serialize_as_secret_always
