"""What a provider's SDK says of its resources: names, types, required arguments, enums, read from its source text.

No wheel carries the provider's schema, but the generated argument classes say as much of the inputs as a check needs.
Nothing is imported: the classes of one resource are cut out of the text, which takes milliseconds where importing the
SDK takes seconds. What they do not say: which change replaces a resource, defaults, ranges, conflicts, outputs.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from infra.engine import urn as urns

# A type: "str", "int", "float", "bool", "any", "asset", "archive", "resource", or one of
# ["list", type], ["map", type], ["union", type, ...], ["literal", value, ...], ["ref", folder, class].
Type = Any

_SIMPLE = {"str": "str", "int": "int", "float": "float", "bool": "bool", "Any": "any"}
_ASSETS = {"Asset": "asset", "Archive": "archive"}
_GETTER = re.compile(
    r'@pulumi\.getter(?:\(name="([^"]+)"\))?\n(?:    @_utilities\.deprecated\(""".*?"""\)\n)?    def (\w+)\(self\)'
)
_ARGS = re.compile(r"^ +args: (?:Optional\[)?(\w+)\]?(?:,| =)", re.MULTILINE)
_RESULT = re.compile(_GETTER.pattern + r" -> (.+):$", re.MULTILINE)
_IMPORT = re.compile(r"^from (\.+)([\w.]*) import (\w+)(?: as (\w+))?$", re.MULTILINE)
_TOP = re.compile(r"^(?:class (\w+)|@|if |def )", re.MULTILINE)
_MEMBER = re.compile(r"^    \w+ = (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Field:
    """One argument: its type and whether it must be given."""

    type: Type
    required: bool


@dataclass(frozen=True, slots=True)
class Fields:
    """The arguments of a resource or of a nested object by the provider's names; `python` maps Python's to those."""

    name: str
    fields: dict[str, Field]
    python: dict[str, str]


@dataclass(frozen=True, slots=True)
class Enumeration:
    """The values that the SDK knows of an enum."""

    name: str
    values: tuple[Any, ...]


class Sdk:
    """The SDK of one package, in a folder such as `site-packages/pulumi_aws`."""

    def __init__(self, package: str, folder: Path) -> None:
        self.package, self.folder = package, folder

    @cached_property
    def version(self) -> str:
        """The version of the plugin that the SDK was made for."""
        return str(json.loads((self.folder / "pulumi-plugin.json").read_text()).get("version", ""))

    @cached_property
    def tokens(self) -> dict[str, tuple[str, str]]:
        """Resource token -> (folder below the SDK, class)."""
        text = _read(self.folder / "__init__.py")
        found = re.search(r'resource_modules="""(.*?)"""', text, re.DOTALL)
        result: dict[str, tuple[str, str]] = {}
        for module in json.loads(found[1]) if found else ():
            folder = "/".join(module["fqn"].split(".")[1:])
            result.update({token: (folder, name) for token, name in module["classes"].items()})
        return result

    def arguments(self, token: str) -> Fields | None:
        """The arguments of a resource or provider; None when the SDK has no class for the token."""
        if urns.is_provider(token):
            return self._of_class(self.folder / "provider.py", "ProviderArgs")
        for path, start in self._classes(token):
            args = _ARGS.search(_read(path), start)
            if args:
                return self._of_class(path, args[1])
        return None

    @cache  # noqa: B019 - SDKs live as long as the process
    def outputs(self, token: str) -> tuple[str, ...]:
        """The names of a resource's outputs, as its class has them; empty when there is no class for the token."""
        for path, start in self._classes(token):
            return tuple(given or python for given, python in _GETTER.findall(_read(path), start))
        return ()

    def results(self, function: str) -> dict[str, Type]:
        """What a function (`aws:ec2/getAmi:getAmi`) returns; empty where the SDK has no class for it."""
        _, module, name = function.split(":")
        folder = module.rpartition("/")[0]
        result = f"{name[:1].upper()}{name[1:]}Result"
        for path in _files_of(self.folder / ("" if folder == "index" else folder), name):
            block = _block(path, result)
            if block:
                reader = _Reader(path.parent.relative_to(self.folder), path)
                return {
                    found[1] or found[2]: reader.read(ast.parse(found[3], mode="eval").body)
                    for found in _RESULT.finditer(block)
                }
        return {}

    def _classes(self, token: str) -> Iterator[tuple[Path, int]]:
        """The file that holds a resource's class, and where in its text the class begins."""
        folder, name = self.tokens.get(token, ("", ""))
        for path in _files_of(self.folder / folder, name) if name else ():
            start = _read(path).find(f"\nclass {name}(pulumi.CustomResource)")
            if start >= 0:
                yield path, start

    def resolve(self, reference: list[str]) -> Fields | Enumeration | None:
        """What a ["ref", folder, class] names; None for what is neither object nor enum (a resource class)."""
        return self._resolve(reference[1], reference[2])

    @cache  # noqa: B019 - SDKs live as long as the process
    def _resolve(self, folder: str, name: str) -> Fields | Enumeration | None:
        inputs, enums = self.folder / folder / "_inputs.py", self.folder / folder / "_enums.py"
        if inputs.exists() and name in _classes_of(inputs):
            return self._of_class(inputs, name)
        block = _block(enums, name) if enums.exists() else ""
        if block:
            return Enumeration(name, tuple(ast.literal_eval(text) for text in _MEMBER.findall(block)))
        return None

    def _of_class(self, path: Path, name: str) -> Fields | None:
        block = _block(path, name)
        end = re.search(r"\):\n", block)
        if not block or end is None:
            return None
        signature = block[block.index("def __init__") : end.start()]
        tree = ast.parse(f"{signature}): pass").body[0]
        assert isinstance(tree, ast.FunctionDef)
        names = {python: given or python for given, python in _GETTER.findall(block)}
        reader = _Reader(path.parent.relative_to(self.folder), path)
        fields = {
            names.get(arg.arg, arg.arg): Field(reader.read(arg.annotation), default is None)
            for arg, default in zip(tree.args.kwonlyargs, tree.args.kw_defaults, strict=True)
        }
        return Fields(name.removesuffix("InitArgs").removesuffix("Args"), fields, names)


class _Reader:
    """Reads annotations of one source file."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._folder, self._imports = folder, _imports_of(path)

    def read(self, node: ast.expr | None) -> Type:
        """An annotation as type; what has no meaning for a check is `any`."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self._named(ast.parse(node.value, mode="eval").body)
        if isinstance(node, ast.Subscript):
            return self._generic(node)
        return self._named(node)

    def _generic(self, node: ast.Subscript) -> Type:
        name = _dotted(node.value).rpartition(".")[2]
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name in ("Input", "Optional", "InputType"):
            return self.read(items[0])
        if name == "Sequence":
            return ["list", self.read(items[0])]
        if name == "Mapping":
            return ["map", self.read(items[1])]
        if name == "Literal":
            return ["literal", *(item.value for item in items if isinstance(item, ast.Constant))]
        if name == "Union":
            members = [self.read(item) for item in items if not _is_twin(item)]
            return members[0] if len(members) == 1 else ["union", *members]
        return "any"

    def _named(self, node: ast.expr | None) -> Type:
        if isinstance(node, ast.Subscript):
            return self._generic(node)
        prefix, _, name = _dotted(node).rpartition(".")
        if prefix == "pulumi" or (not prefix and name in _ASSETS):
            return _ASSETS.get(name, "any" if name != "AssetOrArchive" else ["union", "asset", "archive"])
        if name in _SIMPLE and prefix in ("", "_builtins"):
            return _SIMPLE[name]
        if not name:
            return "any"
        return ["ref", str(self._folder_of(prefix)), name]

    def _folder_of(self, prefix: str) -> Path:
        """The folder that a dotted prefix such as `_meta.v1` names in this file."""
        if not prefix:
            return self._folder
        alias, *rest = prefix.split(".")
        dots, package, name = self._imports.get(alias, (".", "", alias))
        base = self._folder
        for _ in dots[1:]:
            base = base.parent
        return Path(base, *filter(None, package.split(".")), name, *rest)


def _dotted(node: ast.expr | None) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def _is_twin(node: ast.expr) -> bool:
    """`XArgsDict` and `outputs.X` beside `XArgs` are other ways to write the same object."""
    name = node.value if isinstance(node, ast.Constant) else _dotted(node)
    return isinstance(name, str) and (name.endswith("ArgsDict") or name.startswith("outputs."))


def _block(path: Path, name: str) -> str:
    """The text of a class at the top level of a module; empty when there is none."""
    start, end = _classes_of(path).get(name, (0, 0))
    return _read(path)[start:end]


@cache
def _classes_of(path: Path) -> dict[str, tuple[int, int]]:
    """Where in a module's text each of its classes begins and ends."""
    text = _read(path)
    found = list(_TOP.finditer(text))
    ends = [*(item.start() for item in found[1:]), len(text)]
    return {item[1]: (item.start(), end) for item, end in zip(found, ends, strict=True) if item[1]}


@cache
def _imports_of(path: Path) -> dict[str, tuple[str, str, str]]:
    """By the name it has in a module: dots, package and name of each relative import."""
    return {found[4] or found[3]: (found[1], found[2], found[3]) for found in _IMPORT.finditer(_read(path))}


def _files_of(folder: Path, name: str) -> Iterator[Path]:
    """The files that may hold a resource's class, the likeliest first."""
    paths = sorted(folder.glob("[!_]*.py"))
    plain = name.lower()
    return iter(sorted(paths, key=lambda path: path.stem.replace("_", "").lower() != plain))


@cache
def _read(path: Path) -> str:
    return path.read_text()


def find_sdk(package: str, python: str) -> Sdk | None:
    """The SDK of a package beside an interpreter (`.venv/bin/python`); None where it is not installed."""
    name = "pulumi_" + package.replace("-", "_")
    prefix = Path(python).parent.parent
    for folder in sorted(prefix.glob(f"lib*/python3*/*-packages/{name}")):
        if (folder / "__init__.py").exists():
            return _sdk(package, folder)
    return None


@cache
def _sdk(package: str, folder: Path) -> Sdk:
    return Sdk(package, folder)
