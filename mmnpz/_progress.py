"""The argument `progress` of long operations: a callable, or True for a bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int, Any], object]


def checked(progress: Progress | bool | None) -> None:
    """
    Make sure that an argument is what `told` takes.

    Raises
    ------
    ModuleNotFoundError, TypeError
        As for `told`.
    """
    if progress is True:
        _tqdm()
    elif progress not in (None, False) and not callable(progress):
        raise TypeError(f"progress must be a callable or True, got {type(progress).__name__}")


@contextmanager
def told(progress: Progress | bool | None, what: str) -> Iterator[Progress | None]:
    """
    Give what is called with the number of bytes that are done, and of all bytes or None.

    Parameters
    ----------
    progress : callable or True or None
        That callable; or True for a bar by tqdm, which must be installed; or None, as is False.
    what : str
        What a bar says in front.

    Raises
    ------
    ModuleNotFoundError
        If tqdm is not installed.
    TypeError
        If it is something else.
    """
    checked(progress)
    if progress is True:
        with _tqdm().tqdm(desc=what, unit="B", unit_scale=True) as bar:
            yield _Moving(bar)
    else:
        yield progress or None


def _tqdm() -> Any:
    try:
        import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("progress=True needs tqdm: pip install tqdm", name="tqdm") from error
    return tqdm


class _Moving:
    """Moves a bar."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def __call__(self, done: int, total: int | None) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)
