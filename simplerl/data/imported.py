"""Finds the user's own files that a Python file imports, without importing them: they decide what a run computes.

Modules of this package, of Python and of installed packages are left out: the commit and the versions in
environment.json identify those.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

MAX_FILES = 200
OURS = "simplerl"


def imported_files(file: Path) -> list[Path]:
    """Return the files beside `file`, or in its package, that it imports, directly or through one of them: about
    MAX_FILES at most, and none for an installed package."""
    if "site-packages" in file.parts:
        return []
    root = _import_root(file)
    found: dict[Path, None] = {}
    waiting = [file.resolve()]
    while waiting and len(found) < MAX_FILES:
        new = [one for one in _imports(waiting.pop(), root) if one not in found and one != file.resolve()]
        found |= dict.fromkeys(new)
        waiting += new
    return sorted(found)


def _import_root(file: Path) -> Path:
    """Return the folder from which the module of a file is imported: the one above its outermost package."""
    folder = file.resolve().parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _imports(file: Path, root: Path) -> Iterator[Path]:
    """Yield the files below `root` that the import statements of a file name."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # importing it fails, which its caller reports
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from _files_of(root, name.name)
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if node.level else root
            yield from _files_of(base, node.module or "")
            for name in node.names:  # a module of the package
                yield from _files_of(base, f"{node.module or ''}.{name.name}".strip("."))


def _files_of(base: Path, module: str) -> Iterator[Path]:
    """Yield the file of a module and the __init__.py of each package above it, if they exist below `base`; nothing for
    modules of this suite."""
    parts = module.split(".") if module else []
    if parts[:1] == [OURS]:
        return
    for end in range(1, len(parts) + 1):
        path = base.joinpath(*parts[:end])
        for candidate in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if candidate.is_file():
                yield candidate.resolve()
