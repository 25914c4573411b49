"""The digest of the overlay's sources."""

import os
from pathlib import Path

from infra.release import source_digest


def package(root: Path) -> Path:
    """Write a small package."""
    (root / "io").mkdir(parents=True)
    (root / "__init__.py").write_text("A = 1\n")
    (root / "io" / "udp.py").write_text("B = 2\n")
    return root


def test_it_is_the_same_wherever_and_whenever_the_sources_are_the_same(tmp_path: Path) -> None:
    first, second = package(tmp_path / "a"), package(tmp_path / "b")
    os.utime(second / "__init__.py", (1, 1))
    (second / "__pycache__").mkdir()
    (second / "__pycache__" / "x.pyc").write_text("compiled")
    assert source_digest(first) == source_digest(second)
    assert len(source_digest(first)) == 16


def test_it_changes_with_content_and_with_names(tmp_path: Path) -> None:
    root = package(tmp_path / "a")
    seen = {source_digest(root)}
    (root / "__init__.py").write_text("A = 2\n")
    seen.add(source_digest(root))
    (root / "io" / "udp.py").rename(root / "io" / "tcp.py")
    seen.add(source_digest(root))
    (root / "new.py").touch()
    seen.add(source_digest(root))
    (root / "io" / "tcp.py").unlink()
    seen.add(source_digest(root))
    assert len(seen) == 5


def test_text_that_moves_from_one_file_to_the_next_is_a_change(tmp_path: Path) -> None:
    first, second = package(tmp_path / "a"), package(tmp_path / "b")
    (second / "__init__.py").write_text("A = 1\nB")
    (second / "io" / "udp.py").write_text(" = 2\n")
    assert source_digest(first) != source_digest(second)


def test_the_overlay_has_sources() -> None:
    assert source_digest() != source_digest(Path(__file__).parent / "nothing-here")
