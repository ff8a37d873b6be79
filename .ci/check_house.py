#!/usr/bin/env python3
"""Checks what no formatter does: no circle of modules, no comment that is too wide, no file that is too long.

Run from the repository's root. Prints what is wrong, and ends with 1 if anything is.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

# Columns of a comment, as rustfmt has them for code.
WIDTH = 110
# Lines of a file, by the folder that it is in. A test is read alone, what ships as a whole.
LONGEST = {"tests": 900}
LONGEST_ELSEWHERE = 700
# The stub declares all of the compiled half: a module has one stub.
LONGEST_STUB = 900

Graph = dict[str, set[str]]


def without_tests(source: str) -> str:
    """A Rust file up to its tests, which may use whatever they like, and without comments."""
    cut = re.search(r"^#\[cfg\((all\()?test\b[^\n]*\n(?:#\[[^\n]*\n)*mod ", source, re.MULTILINE)
    return re.sub(r"//.*", "", source[: cut.start()] if cut else source)


def rust_modules(crate: Path) -> Graph:
    """What each module of a crate uses. The `mod.rs` of a folder only names what is in it."""
    paths = {path for path in (crate / "src").rglob("*.rs") if path.name not in ("lib.rs", "mod.rs")}
    names = {"::".join(path.relative_to(crate / "src").with_suffix("").parts): path for path in paths}
    graph: Graph = {}
    for name, path in names.items():
        source = without_tests(path.read_text())
        # `use crate::a::{b, c::D};` names a::b and a::c::D.
        used = {part for used in re.findall(r"\buse crate::([^;]*);", source) for part in spread(used)}
        used |= set(re.findall(r"\bcrate::((?:\w+::)*\w+)", source))
        graph[name] = {found for use in used if (found := module_of(use, names)) and found != name}
    return graph


def spread(used: str) -> Iterator[str]:
    """The paths of a use declaration, one by one."""
    start, brace, rest = used.partition("{")
    if not brace:
        yield used.strip()
        return
    depth, part = 0, ""
    for character in rest.rsplit("}", 1)[0] + ",":
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 0:
            if part.strip():
                yield from (start.strip() + inner for inner in spread(part.strip()))
            part = ""
        else:
            part += character


def module_of(path: str, names: Iterable[str]) -> str | None:
    """The module that a path leads into."""
    parts = path.replace(" ", "").split("::")
    for length in range(len(parts), 0, -1):
        if (name := "::".join(parts[:length])) in names:
            return name
    return None


def python_modules(package: Path) -> Graph:
    """What each module of a Python package imports of the package."""
    names = {f"{package.name}.{path.stem}": path for path in package.glob("*.py") if path.stem != "__init__"}
    graph: Graph = {}
    for name, path in names.items():
        used = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                used |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
        graph[name] = used & names.keys() - {name}
        if package.name in used:
            # What the package itself shows is made by other modules: an import of it is one of them all.
            graph[name] |= {other for other in python_exports(package) if other != name}
    return graph


def python_exports(package: Path) -> set[str]:
    """The modules that the package imports when it is imported."""
    tree = ast.parse((package / "__init__.py").read_text())
    return {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


def folders(graph: Graph) -> Graph:
    """The same between folders: what is in no folder stands for itself."""
    above: Graph = {}
    for name, used in graph.items():
        top = name.split("::")[0]
        above.setdefault(top, set()).update(use.split("::")[0] for use in used)
        above[top].discard(top)
    return above


def circles(graph: Graph) -> Iterator[list[str]]:
    """A way from each module back to itself, if there is one; each circle once."""
    seen: set[frozenset[str]] = set()
    for start in sorted(graph):
        ways = {start: [start]}
        todo = [start]
        while todo:
            for use in sorted(graph.get(todo[0], ())):
                if use == start:
                    circle = ways[todo[0]]
                    if frozenset(circle) not in seen:
                        seen.add(frozenset(circle))
                        yield [*circle, start]
                elif use not in ways:
                    ways[use] = [*ways[todo[0]], use]
                    todo.append(use)
            todo.pop(0)


def problems() -> Iterator[str]:
    """All that is wrong."""
    for crate in sorted(path.parent for path in Path("rust").glob("*/Cargo.toml")):
        graph = rust_modules(crate)
        for kind, nodes in (("modules", graph), ("folders", folders(graph))):
            yield from (f"{crate}: a circle of {kind}: {' -> '.join(circle)}" for circle in circles(nodes))
    for circle in circles(python_modules(Path("mmnpz"))):
        yield f"mmnpz: a circle of modules: {' -> '.join(circle)}"
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split():
        path = Path(name)
        if path.suffix not in (".rs", ".py", ".pyi") or not path.exists():
            continue
        lines = path.read_text().splitlines()
        most = LONGEST.get(path.parts[0], LONGEST_ELSEWHERE) if path.suffix != ".pyi" else LONGEST_STUB
        if len(lines) > most:
            yield f"{name}: {len(lines)} lines, more than {most}"
        for number, line in enumerate(lines, 1):
            is_comment = path.suffix == ".rs" and line.lstrip().startswith("//")
            if is_comment and len(line) > WIDTH and "://" not in line:
                yield f"{name}:{number}: a comment of {len(line)} columns, more than {WIDTH}"


if __name__ == "__main__":
    found = list(problems())
    sys.stdout.write("\n".join(found or ["no circle, no wide comment, no long file"]) + "\n")
    sys.exit(1 if found else 0)
