"""Tags of images follow what goes into them, and nothing else."""

from pathlib import Path

import pytest

from components.aws_workloads import CODE_FILES, QUAKE_FILES
from infra.image_tags import ROOT, ImageSourceError, content_tag

PATTERNS = ("Dockerfile", "src/**/*.py")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A small build context."""
    (tmp_path / "src" / "inner").mkdir(parents=True)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "src" / "a.py").write_text("a")
    (tmp_path / "src" / "inner" / "b.py").write_text("b")
    return tmp_path


def test_the_same_sources_have_the_same_tag(sources: Path) -> None:
    tag = content_tag(PATTERNS, {"target": "x"}, sources)
    (sources / "README").write_text("not built into anything")
    assert content_tag(PATTERNS, {"target": "x"}, sources) == tag
    assert len(tag) == 16
    int(tag, 16)


def test_a_changed_moved_or_new_file_is_another_tag(sources: Path) -> None:
    tags = {content_tag(PATTERNS, {}, sources)}
    (sources / "src" / "inner" / "b.py").write_text("c")
    tags.add(content_tag(PATTERNS, {}, sources))
    (sources / "src" / "inner" / "b.py").rename(sources / "src" / "b.py")
    tags.add(content_tag(PATTERNS, {}, sources))
    (sources / "src" / "new.py").write_text("")
    tags.add(content_tag(PATTERNS, {}, sources))
    assert len(tags) == 4


def test_a_setting_is_another_tag(sources: Path) -> None:
    tags = {
        content_tag(PATTERNS, settings, sources)
        for settings in ({}, {"platforms": "linux/amd64"}, {"platforms": "linux/amd64,linux/arm64"})
    }
    assert len(tags) == 3


def test_a_missing_source_is_named_with_the_remedy(sources: Path) -> None:
    (sources / "Dockerfile").unlink()
    with pytest.raises(ImageSourceError, match=r"Dockerfile is not in .* restore it"):
        content_tag(PATTERNS, {}, sources)


def test_all_that_the_dockerfile_copies_decides_the_tag() -> None:
    """A copied file that the tag did not follow would be pushed under a tag that is taken."""
    decided = {path for pattern in CODE_FILES for path in ROOT.glob(pattern)}
    copied = [
        word
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from=" not in line
        for word in line.split()[1:-1]
    ]
    assert copied
    for word in copied:
        source = ROOT / word
        files = list(source.rglob("*.py")) if source.is_dir() else [source]
        wanted = {path for path in files if "quakekube" not in path.parts and "__pycache__" not in path.parts}
        assert wanted
        assert wanted <= decided, word
    assert (ROOT / "docker/quakekube/config.yaml") in {path for item in QUAKE_FILES for path in ROOT.glob(item)}
