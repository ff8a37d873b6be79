"""`__array_wrap__` of our memmap, which NumPy calls with every result of a ufunc, called by name."""

import copy
import gc
import inspect
import pickle
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmnpz

TYPE: Any = mmnpz.memmap
NUMPY_1 = np.lib.NumpyVersion(np.__version__) < "2.0.0"


def expected(view: Any, array: Any, context: Any = None, return_scalar: Any = False) -> Any:
    """What the method does, in Python."""
    if array is view:
        return array
    if return_scalar or (NUMPY_1 and array.shape == ()):
        return array[()]
    return array.view(np.ndarray)


class Duck:
    """No array, but with what the method asks of one."""

    shape = ()

    def __init__(self) -> None:
        self.asked: list[object] = []

    def __getitem__(self, index: object) -> object:
        self.asked.append(index)
        return "item"

    def view(self, kind: object) -> object:
        self.asked.append(kind)
        return "view"


class Undecided:
    def __bool__(self) -> bool:
        raise ZeroDivisionError


@pytest.fixture
def view(archive: Path) -> Any:
    return mmnpz.load(archive)["matrix"]


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda view: np.arange(6.0).reshape(2, 3),
    "plain, 0-d": lambda view: np.array(1.5),
    "read-only": lambda view: np.asarray(view),
    "big-endian": lambda view: np.array(1, ">i4"),
    "object": lambda view: np.array(None),
    "object that is a list": lambda view: np.array([[1], 2], dtype=object)[:1].reshape(()),
    "record": lambda view: np.array((1, 2.5), dtype="i4,f8"),
    "not aligned": lambda view: np.zeros(9, "u1")[1:].view("f8").reshape(()),
    "text": lambda view: np.array("text"),
    "date": lambda view: np.array("2024-02-29", "M8[D]"),
    "itself": lambda view: view,
    "another view": lambda view: view[1:],
    "a copy": lambda view: view.copy(),
    "a copy, 0-d": lambda view: view.copy().reshape(-1)[:1].reshape(()),
    "numpy.memmap": lambda view: np.ones(3).view(np.memmap),
    "matrix": lambda view: np.asmatrix(np.eye(2)),
    "masked": lambda view: np.ma.masked_array([1.0, 2.0], [True, False]),
    "masked, 0-d": lambda view: np.ma.masked_array(1.0, True),
    "record array": lambda view: np.rec.array([(1, 2.5)], dtype="i4,f8"),
    "scalar": lambda view: np.float64(1.5),
    "duck": lambda view: Duck(),
    "list": lambda view: [1, 2],
    "None": lambda view: None,
}
WANTED: dict[str, Any] = {
    "False": False,
    "True": True,
    "None": None,
    "1": 1,
    "empty list": [],
    "numpy.True_": np.True_,
    "undecided": Undecided(),
    "array of two": np.zeros(2),
}


def outcome(wrap: Callable[[], Any]) -> tuple[Any, type[BaseException] | None, str]:
    try:
        return wrap(), None, ""
    except Exception as error:
        return None, type(error), str(error)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of np.matrix
@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("kind", ARRAYS)
def test_as_in_python(view: Any, kind: str, wanted: str) -> None:
    array, flag = ARRAYS[kind](view), WANTED[wanted]
    for ours, theirs in (
        ((array,), (array,)),
        ((array, None), (array,)),
        ((array, (np.add, (view, 1), 0)), (array,)),
        ((array, None, flag), (array, None, flag)),
    ):
        result, error, message = outcome(lambda ours=ours: view.__array_wrap__(*ours))  # type: ignore[misc]
        reference, *failed = outcome(lambda theirs=theirs: expected(view, *theirs))  # type: ignore[misc]
        assert [error, message] == failed
        assert type(result) is type(reference)
        assert (result is view) == (reference is view)
        if isinstance(reference, np.ndarray):
            assert (result.dtype, result.shape, result.strides) == (
                reference.dtype,
                reference.shape,
                reference.strides,
            )
            assert result.ctypes.data == reference.ctypes.data
            assert result.flags.writeable == reference.flags.writeable
        elif isinstance(reference, np.generic):
            assert result.dtype == reference.dtype
            assert result.tobytes() == reference.tobytes()
        else:
            assert result is reference
        if isinstance(array, Duck):
            assert array.asked[::2] == array.asked[1::2]
            array.asked.clear()


def test_a_plain_result_is_not_wrapped_again(view: Any) -> None:
    plain = np.ones(3)
    assert view.__array_wrap__(plain) is plain
    assert view.__array_wrap__(plain, None, True) is plain
    if not NUMPY_1:  # NumPy 1 passes a view of its result that is a memmap
        assert (view + 1).base is None
        assert np.sqrt(view).flags.owndata


def test_arguments_by_name(view: Any) -> None:
    plain = np.array(1.5)
    context = (np.add, (view, 1), 0)
    calls: list[Any] = [
        view.__array_wrap__(array=plain, return_scalar=True),
        view.__array_wrap__(return_scalar=True, context=context, array=plain),
        view.__array_wrap__(plain, return_scalar=True),
        view.__array_wrap__(plain, context, return_scalar=True),
        view.__array_wrap__(plain, context=context, return_scalar=1),
        view.__array_wrap__(plain, **{"".join(["return", "_scalar"]): True}),  # a string of another identity
        TYPE.__array_wrap__(view, plain, None, True),
    ]
    for result in calls:
        assert type(result) is np.float64
        assert result == 1.5
    array = np.ones(2)
    assert view.__array_wrap__(array=array, context=context) is array
    assert view.__array_wrap__(array, context=context) is array
    assert view.__array_wrap__(array, return_scalar=False) is array
    assert view.__array_wrap__(array=view, return_scalar=True) is view


@pytest.mark.parametrize(
    ("arguments", "names", "message"),
    [
        ((), {}, "missing required argument 'array'"),
        ((), {"context": None}, "missing required argument 'array'"),
        ((1, None, False, None), {}, "takes 1 to 3 arguments, not 4"),
        ((1, None, False, None), {"array": 1}, "takes 1 to 3 arguments, not 4"),
        (([1],), {"array": [1]}, "multiple values for argument 'array'"),
        (([1], None), {"context": None}, "multiple values for argument 'context'"),
        (([1], None, False), {"return_scalar": True}, "multiple values for argument 'return_scalar'"),
        (([1],), {"arr": 1}, "unexpected keyword argument 'arr'"),
        (([1],), {"": 1}, "unexpected keyword argument ''"),
        (([1],), {"\ud800": 1}, "unexpected keyword argument"),
    ],
)
def test_wrong_arguments(view: Any, arguments: Any, names: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        view.__array_wrap__(*arguments, **names)


def test_wrong_instance(view: Any) -> None:
    wrap: Any = mmnpz.memmap.__array_wrap__
    for wrong in (np.ones(2), np.ones(2).view(np.memmap), None):
        with pytest.raises(TypeError):
            wrap(wrong, np.ones(2))
    with pytest.raises(TypeError):
        wrap()


def test_signature(view: Any) -> None:
    assert str(inspect.signature(view.__array_wrap__)) == "(array, context=None, return_scalar=False)"
    assert inspect.getdoc(mmnpz.memmap.__array_wrap__)


def test_the_method_can_be_copied_and_pickled(view: Any) -> None:
    method = view.__array_wrap__
    assert method.__self__ is view
    plain = np.ones(2)
    for same in (copy.copy(method), copy.deepcopy(method)):
        assert same.__self__ is view
        assert same(plain) is plain
    loaded = pickle.loads(pickle.dumps(method))  # a pickled view is a plain array
    assert type(loaded.__self__) is np.ndarray
    assert loaded(plain) is plain
    assert np.array_equal(loaded.__self__, view)
    assert pickle.loads(pickle.dumps(mmnpz.memmap.__array_wrap__)) is mmnpz.memmap.__array_wrap__


def test_subclasses_in_python(view: Any) -> None:
    class Plain(mmnpz.memmap):
        pass

    class Calling(mmnpz.memmap):
        def __array_wrap__(self, array: Any, *rest: Any) -> Any:
            calls.append((type(array), rest[1:]))
            return super().__array_wrap__(array, *rest)

    calls: list[Any] = []
    for kind in (Plain, Calling):
        ours: Any = view.view(kind)
        assert type(ours) is kind
        for result in (ours + 1, 1 - ours, np.sqrt(abs(ours)), ours.sum(axis=0), *np.modf(ours)):
            assert type(result) is np.ndarray
        assert np.array_equal(ours + 1, np.asarray(view) + 1)
        assert type(ours.sum()) is type(np.asarray(view).sum())
        for out in (view.copy().view(kind), ours.copy()):
            assert np.add(ours, 1, out=out) is out
            assert np.add(view, 1, out=out) is out
        wrap: Any = ours.__array_wrap__
        with pytest.raises(TypeError):
            wrap()
    assert len(calls) >= 10


@pytest.mark.thread_unsafe(reason="counts references and blocks")
def test_calls_keep_no_references(view: Any) -> None:
    plain, zero, other, context = np.ones(3), np.array(1.5), view[1:], (np.add, (view, 1), 0)
    copied = view.copy()
    nothing: Any = object()

    def raising(*arguments: Any, **names: Any) -> None:
        try:
            view.__array_wrap__(*arguments, **names)
        except (TypeError, AttributeError, ZeroDivisionError):
            return
        raise AssertionError("no error")

    def call() -> None:
        view.__array_wrap__(plain)
        view.__array_wrap__(plain, context, False)
        view.__array_wrap__(zero, context, True)
        view.__array_wrap__(plain, context, True)
        view.__array_wrap__(view, context, False)
        view.__array_wrap__(other, context, False)
        view.__array_wrap__(other, context, True)
        view.__array_wrap__(array=plain, context=context, return_scalar=False)
        _ = view + 1
        view.sum()
        np.add(view, 1, out=copied)

    def fail() -> None:
        raising()
        raising(nothing, nothing, False, nothing)
        raising(nothing, array=nothing)
        raising(nothing, nothing=nothing)
        raising(nothing, context)
        raising(plain, context, Undecided())

    kept = (view, plain, zero, other, context, copied, nothing, np.ndarray, plain.dtype, mmnpz.memmap)
    for work, times in ((call, 10_000), (fail, 100)):
        work()
        gc.collect()
        references = [sys.getrefcount(one) for one in kept]
        blocks = sys.getallocatedblocks()
        for _ in range(times):
            work()
        gc.collect()
        assert [sys.getrefcount(one) for one in kept] == references
        assert sys.getallocatedblocks() - blocks < times / 10


@pytest.mark.thread_unsafe(reason="collects garbage")
def test_a_view_that_keeps_its_own_method_is_collected(view: Any) -> None:
    ours = view[1:]
    ours.wrap = ours.__array_wrap__
    gone = weakref.ref(ours)
    del ours
    gc.collect()
    assert gone() is None
