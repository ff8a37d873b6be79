"""Importing mmnpz loads little, and mmnpz uses only public names of NumPy."""

import re
import sysconfig
from pathlib import Path

import pytest

import mmnpz
from tests.processes import run_python

PACKAGE = Path(mmnpz.__file__).parent
REPOSITORY = Path(__file__).parent.parent


def modules_after(code: str) -> set[str]:
    return set(run_python(f"{code}\nimport sys\nsys.stdout.write(' '.join(sys.modules))").split())


@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_importing_loads_nothing_but_numpy_and_mmnpz() -> None:
    added = modules_after("import mmnpz") - modules_after("import numpy")
    # NumPy 1 does not import typing; mmnpz does.
    assert {name for name in added if name.split(".")[0] not in ("mmnpz", "typing", "_typing")} == set()


@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_reading_and_writing_load_little(tmp_path: Path) -> None:
    code = f"""import mmnpz
with mmnpz.NpzWriter({str(tmp_path / "a.npz")!r}) as writer:
    writer.write("x", [1, 2])
mmnpz.load({str(tmp_path / "a.npz")!r})["x"].sum()"""
    heavy = {"zipfile", "asyncio", "multiprocessing", "unittest", "inspect", "argparse", "torch"}
    assert (modules_after(code) - modules_after("import numpy, io, numpy.lib.format")) & heavy == set()


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python cannot do without its GIL"
)
@pytest.mark.thread_unsafe(reason="works in a process of its own")
def test_the_gil_stays_off(tmp_path: Path) -> None:
    """Importing and using mmnpz does not turn the GIL on.

    Python turns it on for an extension module that does not declare that it works without.
    """
    code = """
        import copy, pickle, sys
        assert not sys._is_gil_enabled()
        import numpy
        assert not sys._is_gil_enabled()
        import mmnpz
        assert not sys._is_gil_enabled()
        with mmnpz.NpzWriter(sys.argv[1]) as writer:
            writer.write("x", [1, 2])
        data = mmnpz.load(sys.argv[1], preload=True)
        assert data["x"][1:].tolist() == [2]
        for other in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
            assert other.arrays["x"].sum() == 3
        assert not sys._is_gil_enabled()
        """
    run_python(code, tmp_path / "a.npz")


def test_public_names() -> None:
    assert {"NpzReader", "NpzWriter", "load"} <= set(mmnpz.__all__)
    assert all(hasattr(mmnpz, name) for name in mmnpz.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", mmnpz.__version__)


SOURCES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi"), *(REPOSITORY / "rust").rglob("*.rs")])
# numpy._x, np._x, from numpy import _x, "numpy.lib._x_impl", numpy.core (which NumPy 2 made private),
# format._x
PRIVATE = re.compile(
    r"(?<![\w.])(np|numpy)(\.\w+)*\._[a-z]\w*"
    r"|from numpy[\w.]* import [^\n]*(?<![\w])_[a-z]\w*"
    r"|(?<![\w.])(np|numpy)\.core\b|\b_(?!disabled_torch_)\w+_impl\b|\"_(read|write|check)_\w*\"|multiarray"
)


@pytest.mark.parametrize("path", SOURCES, ids=[path.name for path in SOURCES])
def test_no_private_name_of_numpy(path: Path) -> None:
    code = "\n".join(
        line.split("//")[0] if path.suffix == ".rs" else line for line in path.read_text().splitlines()
    )
    assert PRIVATE.findall(code) == []


def test_sources_are_found() -> None:
    assert {"reading.py", "writing.py"} <= {path.name for path in SOURCES}
