"""Every session in the README, the documentation and the docstrings runs, and prints what it shows.

The tests change the working directory, which belongs to the whole process, so they must not run in parallel
threads. pytest-run-parallel runs a test that takes `monkeypatch` in one thread.
"""

import ast
import doctest
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mmnpz

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
FENCE = re.compile(r"^( *)(`{3,}|~{3,})(\S*)")
# The languages of fences without Python code. No test would run a snippet in any other language than pycon.
NOT_PYTHON = {"console", "text", "{eval-rst}", "{include}", "{literalinclude}", "{toctree}"}


# `make docs` installs what this page needs.
if "MMNPZ_FRAMEWORKS" not in os.environ and not importlib.util.find_spec("grain"):
    PAGES.remove(ROOT / "docs" / "frameworks.md")

# The module and the page that need PyTorch, if it is not installed. In CI it must be installed.
WITHOUT = set() if "CI" in os.environ or importlib.util.find_spec("torch") else {"mmnpz.torch", "training.md"}


def session_of(page: Path) -> str:
    """Return the sessions of a page, with an empty line in place of each other line of the page."""
    lines = []
    language = closing = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if closing is not None:
            inside = not (fence and not fence[3] and fence[2].startswith(closing))
            lines.append(line if inside and language == "pycon" else "")
            closing = closing if inside else None
        else:
            lines.append("")
            if fence:
                language, closing = fence[3], fence[2]
                place = f"{page.name}:{number}"
                assert language in NOT_PYTHON | {"pycon"}, f"{place}: a fence of {language or 'nothing'}"
    assert closing is None, f"{page.name}: a fence is not closed"
    return "\n".join(lines) + "\n"


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield all docstrings of the package by qualified name, those of the compiled half included."""
    names = [module.name for module in pkgutil.iter_modules(mmnpz.__path__, "mmnpz.")]
    seen: set[int] = set()

    def visit(name: str, thing: Any) -> Iterator[tuple[str, str]]:
        if id(thing) in seen:
            return
        seen.add(id(thing))
        # Skip a class that only inherits its docstring.
        text = vars(thing).get("__doc__") if inspect.isclass(thing) else getattr(thing, "__doc__", None)
        if isinstance(text, str) and text:
            yield name, text
        if inspect.isclass(thing):
            for key, member in vars(thing).items():
                if inspect.isroutine(member) or inspect.isdatadescriptor(member):
                    yield from visit(f"{name}.{key}", member)

    for name in ["mmnpz", *names]:
        if name in WITHOUT:
            continue
        module = importlib.import_module(name)
        yield name, module.__doc__ or ""
        for key, thing in vars(module).items():
            if getattr(thing, "__module__", "").partition(".")[0] == "mmnpz":
                yield from visit(f"{name}.{key}", thing)


def run(text: str, name: str, filename: str) -> int:
    """Run the examples of a text in one session, and return their number."""
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, name, filename, 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(test, out=report.append)
    if report:
        pytest.fail("".join(report), pytrace=False)
    return len(test.examples)


WITH_EXAMPLES = {name: text for name, text in docstrings() if ">>>" in text}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name in WITHOUT:
        pytest.skip("PyTorch is not installed")
    text = session_of(page)
    monkeypatch.chdir(tmp_path)
    assert run(text, page.name, str(page)) == text.count(">>> ")


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(inspect.cleandoc(WITH_EXAMPLES[name]), name, name)


def test_docstrings_are_found_everywhere() -> None:
    names = {name for name, _ in docstrings()}
    assert {"mmnpz", "mmnpz.reading", "mmnpz._mmnpz.Writer.write", "mmnpz._mmnpz.Reader.files"} <= names
    with_examples = {name.rpartition(".")[2] for name in WITH_EXAMPLES}
    assert {"mmnpz", "NpzReader", "NpzWriter", "memmap"} <= with_examples


def test_help_shows_the_docstrings_of_the_stub() -> None:
    stub = ast.parse(Path(mmnpz.__file__).with_name("_mmnpz.pyi").read_text(encoding="utf-8"))
    compared = []

    def compare(name: str, node: ast.Module | ast.ClassDef | ast.FunctionDef, thing: Any) -> None:
        text = ast.get_docstring(node)
        if text is not None:
            assert inspect.cleandoc(thing.__doc__) == text, name
            compared.append(name)
        for child in node.body:
            # The binding gives special methods the docstrings that Python has for them.
            if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("__"):
                compare(f"{name}.{child.name}", child, getattr(thing, child.name))

    # These two are made without PyO3. mmnpz/_memmap.py has the docstring of the second one.
    stub.body = [node for node in stub.body if getattr(node, "name", None) not in ("DirectReader", "memmap")]
    compare("mmnpz._mmnpz", stub, importlib.import_module("mmnpz._mmnpz"))
    assert {"mmnpz._mmnpz", "mmnpz._mmnpz._repair", "mmnpz._mmnpz.Mapping.filename"} < set(compared)
    assert {"mmnpz._mmnpz.Reader", "mmnpz._mmnpz.Reader.gather", "mmnpz._mmnpz.Writer.write"} < set(compared)


def test_pytorch_is_documented() -> None:
    if WITHOUT:
        pytest.skip("PyTorch is not installed")
    documented = {"NpzDataset", "collate", "Batches", "BatchStream", "BucketBatches"}
    assert {f"mmnpz.torch.{name}" for name in documented} <= set(WITH_EXAMPLES)
    assert {"mmnpz.torch", "mmnpz.torch.NpzDataset.name"} <= {name for name, _ in docstrings()}


@pytest.mark.thread_unsafe(reason="doctest takes the standard output of the whole process")
def test_a_wrong_page_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n\n```pycon\n>>> 1 + 1\n3\n```\n")
    with pytest.raises(pytest.fail.Exception, match=r"line 4[\s\S]*Expected:\s+3\s+Got:\s+2"):
        run(session_of(page), page.name, str(page))
    page.write_text("```python\n1 + 1\n```\n")
    with pytest.raises(AssertionError, match=r"page.md:1: a fence of python"):
        session_of(page)
    page.write_text("```pycon\n>>> 1\n")
    with pytest.raises(AssertionError, match="not closed"):
        session_of(page)
