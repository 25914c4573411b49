"""What the twin's clouds hold: a create that is done again makes nothing twice, a successor is another thing."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.lab.errors import LabError
from infra.twin.store import Item, Json, Store

KIND = "digitalocean:index/vpc:Vpc"


def fill(number: int, items: list[Item]) -> tuple[str, Json]:
    return f"id-{number}", {"others": len(items)}


def test_a_create_that_comes_again_goes_on_with_the_same_item(tmp_path: Path) -> None:
    first = Store(tmp_path).begin("urn:a", KIND, fill)
    assert Store(tmp_path).begin("urn:a", KIND, fill) == first
    assert [item.id for item in Store(tmp_path).items(KIND)] == ["id-1"]


def test_a_create_after_the_engine_has_spoken_of_the_item_makes_its_successor(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.begin("urn:a", KIND, fill)
    store.acknowledge("urn:a", first.id)
    second = store.begin("urn:a", KIND, fill)
    assert (second.id, second.data) == ("id-2", {"others": 1})
    assert store.begin("urn:a", KIND, fill) == second
    store.drop(first.number)
    assert [item.id for item in store.items()] == ["id-2"]


def test_numbers_are_not_used_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.drop(store.begin("urn:a", KIND, fill).number)
    assert store.begin("urn:a", KIND, fill).id == "id-2"


def test_items_of_many_threads_are_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda at: store.begin(f"urn:{at}", KIND, fill).id, range(24)))
    assert len(set(made)) == 24
    assert len(store.items()) == 24


def test_data_is_merged_and_what_is_gone_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    item = store.begin("urn:a", KIND, fill)
    changed = store.change(item.number, {"ready": True})
    assert changed is not None
    assert changed.data == {"others": 0, "ready": True}
    assert store.get(KIND, "id-1") == changed
    assert store.change(99, {}) is None
    assert store.get(KIND, "id-9") is None


def test_there_is_nothing_without_a_world(tmp_path: Path) -> None:
    store = Store(tmp_path / "gone")
    assert store.items() == []
    store.acknowledge("urn:a", "id-1")
    with pytest.raises(LabError, match="not there any more"):
        store.begin("urn:a", KIND, fill)
