"""Our memmap does what a numpy.memmap of the same data does, type for type and value for value."""

import copy
import operator
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz

POINT = np.dtype([("x", "<f8"), ("y", "<i4", (2,)), ("z", [("a", "<u2"), ("b", "S3")])])
SAMPLES: dict[str, Any] = {
    "matrix": np.arange(12, dtype="<f8").reshape(3, 4) - 2,
    "square": np.array([[4.0, 1.0], [2.0, 3.0]]),
    "fortran": np.asfortranarray(np.arange(24, dtype="<i4").reshape(2, 3, 4)),
    "vector": np.arange(7, dtype="<i2"),
    "big-endian": np.arange(6, dtype=">f4"),
    "bool": np.array([True, False, True]),
    "scalar": np.array(2.5),
    "one": np.array([[7]], dtype="<u1"),
    "empty": np.zeros((0, 3), dtype="<f4"),
    "text": np.array(["b", "aé", ""]),
    "bytes": np.array([b"b", b"a"]),
    "dates": np.array(["2020-01-01", "NaT", "2024-02-29"], dtype="<M8[D]"),
    "complex": np.array([1 + 2j, 3 - 1j]),
    "records": np.array([(1.5, (1, 2), (3, b"abc")), (2.5, (4, 5), (6, b"d"))], dtype=POINT),
    "record": np.array((1.5, (1, 2), (3, b"abc")), dtype=POINT),
}


def into(out: Any, function: Callable[[Any], Any]) -> Any:
    """Calls a function that fills an array, and gives back the array and what the function returned."""
    result = function(out)
    return result, result is out, out


def in_copy(array: Any, change: Callable[[Any], Any]) -> Any:
    changed = array.copy()
    return change(changed), changed


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda x: x,
    # reductions
    "sum": lambda x: x.sum(),
    "sum axis 0": lambda x: x.sum(axis=0),
    "sum all axes": lambda x: np.sum(x, axis=tuple(range(x.ndim))),
    "sum keepdims": lambda x: x.sum(keepdims=True),
    "sum axis -1 keepdims": lambda x: x.sum(axis=-1, keepdims=True),
    "sum with dtype": lambda x: x.sum(dtype=np.complex128),
    "mean": lambda x: x.mean(),
    "std": lambda x: x.std(axis=0),
    "min": lambda x: x.min(),
    "max axis": lambda x: np.max(x, axis=-1),
    "any": lambda x: x.any(),
    "all axis": lambda x: x.all(axis=0),
    "argmax": lambda x: x.argmax(),
    "argmin axis": lambda x: x.argmin(axis=0),
    "prod": lambda x: np.prod(x),
    "ptp": lambda x: np.ptp(x, axis=0),
    "median": lambda x: np.median(x),
    "percentile": lambda x: np.percentile(x, [25, 50]),
    "cumsum": lambda x: x.cumsum(),
    "cumprod axis": lambda x: x.cumprod(axis=0),
    "add.reduce": lambda x: np.add.reduce(x),
    "add.accumulate": lambda x: np.add.accumulate(x),
    "add.reduceat": lambda x: np.add.reduceat(x, [0, 1]),
    "add.outer": lambda x: np.add.outer(x, x),
    "maximum.reduce": lambda x: np.maximum.reduce(x, axis=None),
    "trace": lambda x: x.trace(),
    "nansum": lambda x: np.nansum(x),
    "count_nonzero": lambda x: np.count_nonzero(x),
    # ufuncs
    "+ 1": lambda x: x + 1,
    "1 - x": lambda x: 1 - x,
    "x * x": lambda x: x * x,
    "x / ndarray": lambda x: x / np.full(x.shape, 2.0),
    "ndarray * x": lambda x: np.full(x.shape, 2.0) * x,
    "x // 2": lambda x: x // 2,
    "x ** 2": lambda x: x**2,
    "matmul": lambda x: x @ x,
    "matmul transposed": lambda x: x @ x.T,
    "neg": lambda x: -x,
    "invert": lambda x: ~x,
    "abs": lambda x: abs(x),
    "x == x": lambda x: x == x,
    "x < 3": lambda x: x < 3,
    "x != 3": lambda x: x != 3,
    "and": lambda x: x & x,
    "sqrt": lambda x: np.sqrt(abs(x)),
    "isfinite": lambda x: np.isfinite(x),
    "divmod": lambda x: divmod(x, 2),
    "modf": lambda x: np.modf(x),
    "modf of one": lambda x: np.modf(x[:1]),
    "clip": lambda x: x.clip(0, 2),
    "round": lambda x: x.round(1),
    "real": lambda x: x.real,
    "imag": lambda x: x.imag,
    "conj": lambda x: x.conj(),
    "isnat": lambda x: np.isnat(x),
    "x + timedelta": lambda x: x + np.timedelta64(1, "D"),
    "x - x": lambda x: x - x,
    "where": lambda x: np.where(x == x, x, x),
    "out=": lambda x: into(np.empty(x.shape), lambda out: np.add(x, 1, out=out)),
    "out=copy": lambda x: into(x.copy(), lambda out: np.add(x, 1, out=out)),
    "out=copy of a slice": lambda x: into(x[:1].copy(), lambda out: np.negative(x[:1], out=out)),
    "out=0-d copy": lambda x: into(
        x.sum(keepdims=True).reshape(()).copy(), lambda out: np.add(x[0], 1, out=out)
    ),
    "reduce into out": lambda x: into(np.empty(x.shape[1:]), lambda out: np.sum(x, axis=0, out=out)),
    "reduce into a copy": lambda x: into(x[0].copy(), lambda out: np.sum(x, axis=0, out=out)),
    "out= read-only": lambda x: np.add(x, 1, out=x),
    "where= and out=": lambda x: np.add(x, 1, out=x.copy(), where=False),
    # what else calls __array_wrap__
    "frexp": lambda x: np.frexp(x),
    "divmod into a copy": lambda x: into(x.copy(), lambda out: np.divmod(x, 2, None, out)[1]),
    "divmod into two copies": lambda x: np.divmod(x, 2, out=(x.copy(), x.copy())),
    "modf of 0-d": lambda x: np.modf(x.reshape(-1)[:1].reshape(())),
    "sqrt of 0-d": lambda x: np.sqrt(abs(x.reshape(-1)[:1].reshape(()))),
    "0-d plus 0-d": lambda x: x[..., :1].reshape(-1)[:1].reshape(()) + x.reshape(-1)[:1].reshape(()),
    "equal of 0-d": lambda x: x.reshape(-1)[:1].reshape(()) == x.reshape(-1)[0],
    "0-d into 0-d": lambda x: into(
        np.empty(()), lambda out: np.negative(x.reshape(-1)[:1].reshape(()), out=out)
    ),
    "out= another type": lambda x: into(x.astype("c16"), lambda out: np.multiply(x, 2, out=out)),
    "out= the input's copy": lambda x: in_copy(x, lambda y: np.add(y, y, y) is y),
    "out= overlapping": lambda x: in_copy(x, lambda y: np.add(y[1:], 1, out=y[:-1])),
    "ndarray and out=copy": lambda x: into(x.copy(), lambda out: np.add(np.ones(x.shape), 1, out=out)),
    "where= an array": lambda x: np.add(x, 1, out=x.copy(), where=x == x),
    "matmul into a copy": lambda x: into(x.copy(), lambda out: np.matmul(x, x, out=out)),
    "with a matrix": lambda x: x + np.asmatrix(np.ones(x.shape)),
    "with a masked array": lambda x: (x + np.ma.masked_array(np.ones(x.shape))).sum(),
    "a list plus": lambda x: [1.0] * len(x) + x,
    "add.reduce keepdims": lambda x: np.add.reduce(x, axis=None, keepdims=True),
    "add.reduce where": lambda x: np.add.reduce(x, axis=None, where=x == x, initial=0),
    "add.reduce of 0-d": lambda x: np.add.reduce(x.reshape(-1)[:1].reshape(()), axis=()),
    "add.reduce into 0-d": lambda x: into(np.empty(()), lambda out: np.add.reduce(x, axis=None, out=out)),
    "multiply.accumulate": lambda x: np.multiply.accumulate(x, axis=-1),
    "accumulate into a copy": lambda x: into(x.copy(), lambda out: np.add.accumulate(x, out=out)),
    "subtract.outer": lambda x: np.subtract.outer(x, [1, 2]),
    "add.at": lambda x: in_copy(x, lambda y: np.add.at(y, [0, 0], 1)),
    "negative.at": lambda x: in_copy(x, lambda y: np.negative.at(y, [0])),
    "mean keepdims": lambda x: x.mean(axis=0, keepdims=True),
    "var": lambda x: np.var(x, axis=-1),
    "average": lambda x: np.average(x),
    "nanmean": lambda x: np.nanmean(x, axis=0),
    "quantile": lambda x: np.quantile(x, 0.5, axis=0),
    "cov": lambda x: np.cov(x),
    "fix": lambda x: np.fix(x),
    "fix into a copy": lambda x: into(x.copy(), lambda out: np.fix(x, out=out)),
    "round into a copy": lambda x: into(x.copy(), lambda out: np.round(x, 1, out=out)),
    "nan_to_num": lambda x: np.nan_to_num(x),
    "unwrap": lambda x: np.unwrap(x),
    "sinc": lambda x: np.sinc(x),
    "angle": lambda x: np.angle(x),
    "gradient": lambda x: np.gradient(x),
    "select": lambda x: np.select([x == x], [x]),
    "insert": lambda x: np.insert(x, 0, x[0], axis=0),
    "delete": lambda x: np.delete(x, 0, axis=0),
    "tril": lambda x: np.tril(x),
    "apply_over_axes": lambda x: np.apply_over_axes(np.sum, x, [0]),
    "linalg.pinv": lambda x: np.linalg.pinv(x),
    "linalg.matrix_power": lambda x: np.linalg.matrix_power(x, 2),
    "linalg.eigvals": lambda x: np.linalg.eigvals(x),
    "linalg.slogdet": lambda x: tuple(np.linalg.slogdet(x)),
    "linalg.cholesky": lambda x: np.linalg.cholesky(x @ x.T),
    "linalg.tensorsolve": lambda x: np.linalg.tensorsolve(x, x[0]),
    # indexing
    "[0]": lambda x: x[0],
    "[-1]": lambda x: x[-1],
    "[100]": lambda x: x[100],
    "[np.int64(1)]": lambda x: x[np.int64(1)],
    "[0-d array]": lambda x: x[np.array(1)],
    "[True]": lambda x: x[True],
    "[()]": lambda x: x[()],
    "[...]": lambda x: x[...],
    "[..., 0]": lambda x: x[..., 0],
    "[0, ...]": lambda x: x[0, ...],
    "[1:]": lambda x: x[1:],
    "[::-1]": lambda x: x[::-1],
    "[:0]": lambda x: x[:0],
    "[:, 1]": lambda x: x[:, 1],
    "[1:, ::2]": lambda x: x[1:, ::2],
    "[0, 1]": lambda x: x[0, 1],
    "[None]": lambda x: x[None],
    "[..., None]": lambda x: x[..., np.newaxis],
    "[list]": lambda x: x[[0, 1, 0]],
    "[empty list]": lambda x: x[[]],
    "[tuple]": lambda x: x[(0,)],
    "[array]": lambda x: x[np.array([1, 0])],
    "[array with more axes]": lambda x: x[np.array([[0, 1], [1, 0]])],
    "[:, list]": lambda x: x[:, [0, 1]],
    "[list, :1]": lambda x: x[[0], :1],
    "[ix_]": lambda x: x[np.ix_([0, 1], [1, 0])],
    "[boolean]": lambda x: x[x == x],
    "[boolean rows]": lambda x: x[np.arange(len(x)) > 0],
    "[nothing]": lambda x: x[np.zeros(x.shape, bool)],
    "['x']": lambda x: x["x"],
    "['y']": lambda x: x["y"],
    "['z']['b']": lambda x: x["z"]["b"],
    "[['x', 'y']]": lambda x: x[["x", "y"]],
    "[0]['y']": lambda x: x[0]["y"],
    "['nothing']": lambda x: x["nothing"],
    "[1.5]": lambda x: x[1.5],
    "slice of a slice": lambda x: x[1:][:1],
    "slice of fancy": lambda x: x[[0, 1]][:1],
    "fancy of a slice": lambda x: x[1:][[0]],
    "operator.index": lambda x: operator.index(x),
    "setitem": lambda x: x.__setitem__(0, 1),
    "setitem in a copy": lambda x: in_copy(x, lambda y: y.__setitem__(0, y[-1])),
    "+= in a copy": lambda x: in_copy(x, lambda y: y.__iadd__(1)),
    "+=": lambda x: x.__iadd__(1),
    "delete item": lambda x: x.__delitem__(0),
    "list": lambda x: list(x),
    "unpacked": lambda x: [*x],
    "nested": lambda x: [list(row) for row in x],
    "flat": lambda x: (list(x.flat), x.flat[0], x.flat[:2]),
    "nditer": lambda x: [np.array(item) for item in np.nditer(x)],
    "ndenumerate": lambda x: list(np.ndenumerate(x)),
    "len": lambda x: len(x),
    "in": lambda x: (x.flat[0] in x, 99 in x),
    "bool": lambda x: bool(x),
    "float": lambda x: float(x),
    "int": lambda x: int(x),
    "complex": lambda x: complex(x),
    "hash": lambda x: hash(x),
    "item": lambda x: x.item(),
    "item(0)": lambda x: x.item(0),
    "tolist": lambda x: x.tolist(),
    "tobytes": lambda x: x.tobytes(),
    "take": lambda x: x.take([0]),
    "take axis": lambda x: np.take(x, [1, 0], axis=0),
    "compress": lambda x: x.compress([True], axis=0),
    "choose": lambda x: np.choose([0, 0], [x, x]),
    "diagonal": lambda x: x.diagonal(),
    "nonzero": lambda x: x.nonzero(),
    "argsort": lambda x: x.argsort(),
    "searchsorted": lambda x: x.searchsorted(3),
    "sort": lambda x: np.sort(x),
    "sort in place": lambda x: x.sort(),
    "partition": lambda x: np.partition(x, 1),
    "repeat": lambda x: x.repeat(2),
    # shape and type
    "copy": lambda x: x.copy(),
    "np.copy": lambda x: np.copy(x),
    "np.copy subok": lambda x: np.copy(x, subok=True),
    "slice of a copy": lambda x: x.copy()[:1],
    "item of a copy": lambda x: x.copy()[0],
    "copy of a slice": lambda x: x[1:].copy(order="F"),
    "copy.copy": lambda x: copy.copy(x),
    "copy.deepcopy": lambda x: copy.deepcopy(x),
    "deepcopy in a list": lambda x: copy.deepcopy([x, x]),
    "astype": lambda x: x.astype("f4"),
    "astype same": lambda x: x.astype(x.dtype, copy=False),
    "astype plain": lambda x: x.astype("c16", subok=False),
    "astype str": lambda x: x.astype("U"),
    "view": lambda x: x.view(),
    "view ndarray": lambda x: x.view(np.ndarray),
    "view bytes": lambda x: x.view("u1"),
    "view recarray": lambda x: x.view(np.recarray),
    "asarray": lambda x: np.asarray(x),
    "asanyarray": lambda x: np.asanyarray(x),
    "array": lambda x: np.array(x),
    "array subok": lambda x: np.array(x, subok=True),
    "ascontiguousarray": lambda x: np.ascontiguousarray(x),
    "asfortranarray": lambda x: np.asfortranarray(x),
    "require": lambda x: np.require(x, requirements=["W", "C"]),
    "reshape": lambda x: x.reshape(-1),
    "reshape F": lambda x: x.reshape(-1, order="F"),
    "reshape 0-d": lambda x: x.reshape(()),
    "ravel": lambda x: x.ravel(),
    "ravel F": lambda x: np.ravel(x, order="F"),
    "flatten": lambda x: x.flatten(),
    "T": lambda x: x.T,
    "transpose": lambda x: x.transpose(),
    "swapaxes": lambda x: np.swapaxes(x, 0, -1),
    "moveaxis": lambda x: np.moveaxis(x, 0, -1),
    "squeeze": lambda x: x.squeeze(),
    "expand_dims": lambda x: np.expand_dims(x, 0),
    "byteswap": lambda x: x.byteswap(),
    "atleast_2d": lambda x: np.atleast_2d(x),
    "broadcast_to": lambda x: np.broadcast_to(x, (2, *x.shape)),
    "broadcast_to subok": lambda x: np.broadcast_to(x, (2, *x.shape), subok=True),
    "zeros_like": lambda x: np.zeros_like(x),
    "full_like": lambda x: np.full_like(x, x.flat[0]),
    "ones_like plain": lambda x: np.ones_like(x, subok=False),
    "resize": lambda x: np.resize(x, (2, 2)),
    "fill": lambda x: x.fill(0),
    "sliding_window_view": lambda x: np.lib.stride_tricks.sliding_window_view(x, 1, axis=0),
    # functions of many arrays
    "concatenate": lambda x: np.concatenate([x, x]),
    "concatenate with ndarray": lambda x: np.concatenate([np.asarray(x), x]),
    "stack": lambda x: np.stack([x, x], axis=-1),
    "hstack": lambda x: np.hstack([x, x]),
    "block": lambda x: np.block([x, x]),
    "split": lambda x: np.array_split(x, 2),
    "append": lambda x: np.append(x, x),
    "tile": lambda x: np.tile(x, 2),
    "roll": lambda x: np.roll(x, 1),
    "flip": lambda x: np.flip(x),
    "rot90": lambda x: np.rot90(x),
    "unique": lambda x: np.unique(x),
    "histogram": lambda x: np.histogram(x, 3),
    "bincount": lambda x: np.bincount(x),
    "diff": lambda x: np.diff(x),
    "dot": lambda x: np.dot(x, x),
    "vdot": lambda x: np.vdot(x, x),
    "inner": lambda x: np.inner(x, x),
    "outer": lambda x: np.outer(x, x),
    "einsum": lambda x: np.einsum("...i->...", x),
    "einsum to scalar": lambda x: np.einsum("i,i", x, x),
    "tensordot": lambda x: np.tensordot(x, x, axes=0),
    "kron": lambda x: np.kron(x, x),
    "cross": lambda x: np.cross(x, x),
    "norm": lambda x: np.linalg.norm(x),
    "norm axis": lambda x: np.linalg.norm(x, axis=0),
    "inv": lambda x: np.linalg.inv(x),
    "det": lambda x: np.linalg.det(x),
    "solve": lambda x: np.linalg.solve(x, x[0]),
    "eigh": lambda x: tuple(np.linalg.eigh(x)),
    "svd": lambda x: tuple(np.linalg.svd(x, full_matrices=False)),
    "qr": lambda x: tuple(np.linalg.qr(x)),
    "lstsq": lambda x: tuple(np.linalg.lstsq(x, x, rcond=None)),
    "fft": lambda x: np.fft.fft(x),
    "interp": lambda x: np.interp(x, [0, 1], [2, 3]),
    "vectorize": lambda x: np.vectorize(lambda item: item)(x),
    "apply_along_axis": lambda x: np.apply_along_axis(lambda column: column.sum(), 0, x),
    "ma": lambda x: np.ma.masked_array(x).sum(),
    "array_equal": lambda x: np.array_equal(x, x),
    "may_share_memory": lambda x: np.may_share_memory(x, x[:1]),
    # text and buffers
    "repr": lambda x: repr(x),
    "repr of a slice": lambda x: repr(x[:1]) if x.size else "",
    "str": lambda x: str(x),
    "format": lambda x: f"{x}",
    "format spec": lambda x: f"{x:.2f}",
    "array2string": lambda x: np.array2string(x),
    "memoryview": lambda x: (memoryview(x).readonly, memoryview(x).shape, bytes(memoryview(x))),
    "flush": lambda x: x.flush(),
    "flags": lambda x: (x.flags.writeable, x.flags.owndata, x.flags.c_contiguous, x.flags.f_contiguous),
    "attributes of a copy": lambda x: (x.copy().filename, x.copy().mode, x.copy().offset),
    "name of the class": lambda x: (type(x).__name__, x.__class__.__name__),
    "priority": lambda x: x.__array_priority__,
    "new attribute": lambda x: x.note,
}


def kind(value: Any) -> object:
    if isinstance(value, np.memmap):
        assert type(value) in (np.memmap, mmnpz.memmap)
        return "memmap"
    return type(value)


def owner(array: Any) -> Any:
    """The last array in the chain of bases: it owns the items, or lies over a map."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def check(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, np.ndarray) and theirs.size == 0:
        # numpy.memmap gives a plain array for a slice of no items, which shares no memory with the map.
        assert isinstance(ours, np.ndarray)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        return
    assert kind(ours) == kind(theirs)
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            check(one, other)
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.flags.writeable == theirs.flags.writeable
        # numpy.memmap gives a view of the result of a ufunc, where ours is that result.
        assert ours.flags.owndata >= theirs.flags.owndata
        assert owner(ours).flags.owndata == owner(theirs).flags.owndata
        assert ours.strides == theirs.strides
        assert ours.tobytes() == theirs.tobytes()
    elif isinstance(theirs, np.generic):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()
    elif isinstance(theirs, str):
        assert ours == theirs
    else:
        assert ours == theirs or (ours != ours and theirs != theirs)


def outcome(operation: Callable[[Any], Any], array: Any) -> tuple[Any, type[BaseException] | None]:
    try:
        with np.errstate(all="ignore"):
            return operation(array), None
    except Exception as error:
        return None, type(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the samples in an archive, and in a file each."""
    folder = tmp_path_factory.mktemp("pairs")
    with mmnpz.NpzWriter(folder / "samples.npz") as writer:
        for name, sample in SAMPLES.items():
            writer.write(name, sample)
            np.save(folder / f"{name}.npy", sample)
    return folder


changed = pytest.mark.thread_unsafe(reason="changes the arrays of a fixture")


@pytest.fixture(params=["r", pytest.param("c", marks=changed)])
def pairs(folder: Path, request: pytest.FixtureRequest) -> dict[str, tuple[Any, Any]]:
    """For every sample: ours, and a numpy.memmap of the same data, in a mode."""
    data = mmnpz.load(folder / "samples.npz", request.param)
    pairs = {}
    for name in SAMPLES:
        theirs = np.load(folder / f"{name}.npy", mmap_mode=request.param)
        assert type(theirs) is np.memmap
        pairs[name] = data[name], theirs
    return pairs


@pytest.mark.filterwarnings("ignore")  # what NumPy warns of here it warns of with its own memmap, too
@pytest.mark.parametrize("operation", OPERATIONS)
def test_as_with_numpy_memmap(pairs: dict[str, tuple[Any, Any]], operation: str) -> None:
    succeeded = 0
    for sample, (ours, theirs) in pairs.items():
        expected, expected_error = outcome(OPERATIONS[operation], theirs)
        result, error = outcome(OPERATIONS[operation], ours)
        assert error == expected_error, sample
        if error is None:
            succeeded += 1
            try:
                check(result, expected)
            except AssertionError as failed:
                raise AssertionError(
                    f"{operation} of {sample}: {result!r} instead of {expected!r}"
                ) from failed
    raising = {"[100]", "out= read-only", "setitem", "+=", "delete item", "hash", "fill", "new attribute"}
    assert succeeded or operation in raising | {"sort in place", "[1.5]", "['nothing']", "operator.index"}


@pytest.mark.parametrize("method", ["__array_wrap__", "__getitem__", "__array_ufunc__"])
def test_calls_of_special_methods(pairs: dict[str, tuple[Any, Any]], method: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "__array_wrap__": (np.arange(3.0),),
        "__getitem__": (0,),
        "__array_ufunc__": (np.add, "__call__", np.arange(4.0), 1),
    }
    for sample in ("matrix", "fortran"):
        ours, theirs = pairs[sample]
        expected, expected_error = outcome(lambda x: getattr(x, method)(*arguments[method]), theirs)
        result, error = outcome(lambda x: getattr(x, method)(*arguments[method]), ours)
        assert error == expected_error
        check(result, expected)


@pytest.mark.parametrize("as_str", [False, True])
def test_attributes_are_those_of_a_slice_of_a_map_of_the_file(archive: Path, as_str: bool) -> None:
    path = str(archive) if as_str else archive
    data: Any = mmnpz.load(path)
    theirs: Any = np.memmap(path, mode="r")
    for ours in (data.mmap, data["matrix"], data["matrix"][1:], data["matrix"].T, data["table"]["a"]):
        assert ours.filename == theirs[5:].filename
        assert type(ours.filename) is type(theirs.filename)
        assert ours.mode == theirs[5:].mode == "r"
        # numpy.memmap gives all of its slices the offset of the whole.
        first = np.memmap(path, "u1", "r", ours.offset, ours.itemsize)
        assert first.tobytes() == ours.tobytes("A")[: ours.itemsize]
    copies: list[Callable[[Any], Any]] = [lambda x: x.copy(), lambda x: np.zeros_like(x)]
    for get in copies:
        assert get(data.mmap).filename is get(theirs).filename is None
        assert get(data.mmap).mode is get(theirs).mode is None
        assert get(data.mmap).offset is get(theirs).offset is None


def test_the_dict_of_a_view_is_that_of_any_object(archive: Path) -> None:
    ours: Any = mmnpz.load(archive)["matrix"]
    theirs: Any = np.zeros((3, 4)).view(np.memmap)
    theirs.__dict__ = {}
    wrongs: list[Any] = [1, None, []]
    found = []
    for array in (ours, theirs):
        array.note = 1
        attributes = array.__dict__
        assert vars(array) is attributes
        attributes["other"] = 2
        seen = [array.other, dict(attributes)]
        array.__dict__ = {"new": 3}
        seen += [array.new, hasattr(array, "note"), vars(array)]
        del array.__dict__
        seen += [hasattr(array, "new"), dict(vars(array))]
        array.again = 4
        seen.append(vars(array))
        for wrong in wrongs:
            with pytest.raises(TypeError) as raised:
                array.__dict__ = wrong
            seen.append(str(raised.value))
        found.append(seen)
    assert found[0] == found[1]


def test_a_relative_path_gives_an_absolute_filename(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive.parent)
    ours: Any = mmnpz.load(archive.name).mmap
    assert ours.filename == np.memmap(archive.name, mode="r").filename


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_a_plain_array_of_the_excerpt(pairs: dict[str, tuple[Any, Any]], protocol: int) -> None:
    for ours, _ in pairs.values():
        loaded = pickle.loads(pickle.dumps(ours, protocol))
        check(loaded, pickle.loads(pickle.dumps(np.asarray(ours), protocol)))
        assert type(loaded) is np.ndarray
        assert loaded.shape == ours.shape


def test_a_pickle_holds_no_more_than_the_excerpt(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with mmnpz.NpzWriter(path) as writer:
        writer.write("big", np.zeros(100_000))
    view = mmnpz.load(path)["big"]
    assert len(pickle.dumps(view[10:20])) < 1000
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(view[10:20], 5, buffer_callback=buffers.append)
    assert sum(buffer.raw().nbytes for buffer in buffers) + len(pickled) < 1000
    assert type(pickle.loads(pickled, buffers=buffers)) is np.ndarray


def test_the_class_is_importable_under_its_name() -> None:
    assert issubclass(mmnpz.memmap, np.memmap)
    assert mmnpz.memmap.__name__ == "memmap"
