"""A Pulumi program whose dynamic resources are files; copied into a project by the tests that run real processes.

Which files there are, and how slowly they come and go, is in `wanted.json` beside it. A file's identity is its path, so
every operation may be repeated.
"""

import json
import time
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

HERE = Path(__file__).parent
WANTED = json.loads((HERE / "wanted.json").read_text())


class FileProvider(ResourceProvider):
    """Keeps a text in a file; waits before and after each change to be interruptible at either moment."""

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> Any:
        from pulumi.dynamic import CheckFailure, CheckResult

        failures = [CheckFailure("text", "must not be empty")] if news.get("text") == "" else []
        return CheckResult(news, failures)

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        moved = _olds["path"] != _news["path"]
        return DiffResult(
            changes=moved or _olds["text"] != _news["text"], replaces=["path"] if moved else [],
            delete_before_replace=bool(_news.get("delete_first")),
        )  # fmt: skip

    def create(self, props: dict[str, Any]) -> CreateResult:
        if props["text"] == "fail":
            raise ValueError("told to fail")
        self._write(props)
        return CreateResult(props["path"], {**props, "length": len(props["text"])})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        path = Path(id_)
        if not path.exists():
            return ReadResult("", {})
        text = path.read_text()
        outs = {**props, "text": text, "length": len(text)}
        return ReadResult(id_, outs, {key: outs[key] for key in ("path", "text", "wait_s")})

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        self._write(_news)
        return UpdateResult({**_news, "length": len(_news["text"])})

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        self._begin(Path(_id))
        time.sleep(_props["wait_s"])
        Path(_id).unlink(missing_ok=True)
        time.sleep(_props["wait_s"])
        self._end(Path(_id))

    def _write(self, props: dict[str, Any]) -> None:
        path = Path(props["path"])
        (path.parent.parent / "begun").touch()
        self._begin(path)
        time.sleep(props["wait_s"])
        path.write_text(props["text"])
        time.sleep(props["wait_s"])
        self._end(path)

    def _begin(self, path: Path) -> None:
        """Leave marks of how many operations run at once; wait while the test holds them (bounded)."""
        folder = path.parent.parent
        (folder / "running").mkdir(exist_ok=True)
        (folder / "running" / path.name).touch()
        (folder / f"beside-{len(list((folder / 'running').iterdir()))}").touch()
        for _ in range(3000):
            if not (folder / "hold").exists():
                return
            time.sleep(0.01)

    def _end(self, path: Path) -> None:
        (path.parent.parent / "running" / path.name).unlink(missing_ok=True)


class File(Resource, module="test", name="File"):
    """A file with a text."""

    path: pulumi.Output[str]
    text: pulumi.Output[str]
    length: pulumi.Output[int]

    def __init__(self, name: str, path: Any, text: Any, opts: pulumi.ResourceOptions | None = None) -> None:
        props = {"path": path, "text": text, "wait_s": WANTED.get("wait_s", 0), "length": None}
        if WANTED.get("delete_first"):
            props["delete_first"] = True
        super().__init__(FileProvider(), name, props, opts)


class Folder(pulumi.ComponentResource):
    """Files below one component; each refers to the one before where `chained`."""

    def __init__(self, name: str, files: dict[str, str]) -> None:
        super().__init__("test:index:Folder", name)
        before: File | None = None
        lengths = {}
        for key, text in files.items():
            options = pulumi.ResourceOptions(
                parent=self, depends_on=[before] if before and WANTED.get("chained") else []
            )
            before = File(key, str(HERE / "out" / key), text, options)
            lengths[key] = before.length
        self.lengths = pulumi.Output.all(**lengths)
        self.register_outputs({"lengths": self.lengths})


def main() -> None:
    """The program."""
    (HERE / "out").mkdir(exist_ok=True)
    folder = Folder("folder", WANTED["files"])
    pulumi.export("lengths", folder.lengths)
    pulumi.export("secret", pulumi.Output.secret("hunter2"))
    if WANTED.get("print"):
        print(WANTED["print"])
    if WANTED.get("raise"):
        raise RuntimeError(WANTED["raise"])
    if WANTED.get("exit"):
        raise SystemExit(WANTED["exit"])
    if WANTED.get("sleep_s"):
        time.sleep(WANTED["sleep_s"])


if __name__ == "__main__":
    main()
