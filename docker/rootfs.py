"""Completes an image's tree at build time with the interpreter and every library it loads: `rootfs.py TREE`.

What is taken: the interpreter, its standard library without test suites, installers and the Tk toolkit, and the shared
libraries that ldd names for the interpreter and for every extension module in the tree. Then times are fixed and
rights made those of a read-only image. Standard library alone; runs as root in the build stage.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

UNUSED = (
    *("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "site-packages"),
    *("dist-packages", "__pycache__", "turtle.py", "config-*", "_test*.so", "_ctypes_test*.so", "_tkinter*.so"),
)
ALWAYS = ("libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")
"""Libraries that are loaded by name at run time, where the base has them."""
ETC = {
    "passwd": "root:x:0:0::/nonexistent:/usr/sbin/nologin\nztna:x:65532:65532::/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nztna:x:65532:\n",
    "nsswitch.conf": "hosts: files dns\n",
}


def interpreter(tree: Path) -> None:
    """Copy the interpreter and its standard library, and name it python."""
    real = Path(sys.executable).resolve()
    place(tree, real)
    for name in ("python", "python3"):
        link = tree / "usr/local/bin" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if link != tree / real.relative_to("/"):
            link.symlink_to(os.path.relpath(f"/{real.relative_to('/')}", "/usr/local/bin"))
    library = Path(sysconfig.get_paths()["stdlib"])
    shutil.copytree(
        library, tree / library.relative_to("/"), symlinks=True, ignore=shutil.ignore_patterns(*UNUSED, "*.a", "*.exe")
    )
    dynamic = tree / library.relative_to("/")
    for dangling in [path for path in dynamic.rglob("*") if path.is_symlink() and not path.exists()]:
        dangling.unlink()
    compileall.compile_dir(
        str(dynamic),
        quiet=2,  # some files of the library are there to be wrong
        stripdir=str(tree),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        workers=1,
    )


def merge_usr(tree: Path) -> None:
    """Keep /lib, /lib64 and /bin what they are in the base: links into /usr."""
    for name in ("lib", "lib64", "bin"):
        link = Path("/") / name
        if link.is_symlink():
            (tree / name).symlink_to(os.readlink(link).lstrip("/"))
            (tree / "usr" / name).mkdir(parents=True, exist_ok=True)


def libraries(tree: Path) -> None:
    """Copy the shared libraries that the interpreter and all extension modules of the tree load."""
    binaries = [Path(sys.executable).resolve(), *(path for path in tree.rglob("*.so*") if path.is_file())]
    wanted: set[str] = set()
    for binary in binaries:
        said = subprocess.run(["ldd", str(binary)], text=True, capture_output=True, check=False).stdout
        missing = re.findall(r"(\S+) => not found", said)
        if missing and not any(tree.rglob(missing[0])):
            raise SystemExit(f"{binary} needs {', '.join(missing)}, which the base image does not have")
        wanted |= {path for path in re.findall(r"(/\S+\.so\S*)", said) if not path.startswith(str(tree))}
    folders = {Path(path).resolve().parent for path in wanted}
    wanted |= {str(folder / name) for folder in folders for name in ALWAYS if (folder / name).exists()}
    for path in sorted(wanted):
        place(tree, Path(path))
    if Path("/etc/ld.so.cache").exists():
        place(tree, Path("/etc/ld.so.cache"))


def place(tree: Path, path: Path) -> None:
    """Copy a file to where its real directory is, under the name it is asked for."""
    target = tree / path.parent.resolve().relative_to("/") / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy(path.resolve(), target)


def finish(tree: Path) -> None:
    """Write the few files of /etc, and make rights and times the same in every build."""
    for mounted in ("etc/ztna", "run/ztna"):
        (tree / mounted).mkdir(parents=True, exist_ok=True)
    (tree / "tmp").mkdir(exist_ok=True)
    for name, text in ETC.items():
        (tree / "etc" / name).write_text(text)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & 0o111
            path.chmod(0o755 if runs else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    (tree / "tmp").chmod(0o1777)


def main(argv: list[str]) -> int:
    """Run the command line."""
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    tree = Path(argv[0])
    merge_usr(tree)
    interpreter(tree)
    libraries(tree)
    finish(tree)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
