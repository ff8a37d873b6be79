"""
Memory for batches, which is used again once no tensor has it.

New memory costs more than what is copied to it: the system hands out pages one by one, each filled with
zeros. So a pool keeps the buffers of batches. A buffer is free when the arrays in it are gone, which a tensor
holds for as long as its storage lives.

In a worker process of a `torch.utils.data.DataLoader` the buffers are shared memory (`memfd_create`). PyTorch
would make new shared memory for each tensor, and the receiver would map it. Here, the receiver gets the
descriptor of a buffer once, and afterwards only a number. Each tensor in a buffer has a byte in its first
ones: the worker sets it when it sends the tensor, and the receiver clears it when its tensor is gone.
"""

import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import get_worker_info

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALIGN = 64

# The first bytes of a shared buffer: one for each tensor that was sent, and one that tells whether the
# receiver has mapped the buffer.
_HEAD = 64
_MAPPED = _HEAD - 1

# How many buffers a pool keeps: more than a loader has under way. Who collects batches gets others.
_MOST = 16

_CAN_SHARE = hasattr(os, "memfd_create")


class _Buffer:
    """Memory of this process."""

    def __init__(self, size: int) -> None:
        self._set(np.empty(size + _ALIGN, np.uint8))

    def _set(self, memory: "NDArray[np.uint8]", start: int = 0) -> None:
        start += -(memory.ctypes.data + start) % _ALIGN
        self.bytes = memory[start:]
        self.arrays: list[weakref.ref[NDArray[Any]]] = []

    def is_free(self) -> bool:
        self.arrays = [array for array in self.arrays if array() is not None]
        return not self.arrays


class _SharedBuffer(_Buffer):
    """Memory of a worker, which it shares with the process that it sends its tensors to."""

    _count = 0

    def __init__(self, size: int) -> None:
        self._file = os.memfd_create("mmnpz-batch", os.MFD_CLOEXEC)
        try:
            size = -(-(size + _HEAD) // mmap.PAGESIZE) * mmap.PAGESIZE
            os.ftruncate(self._file, size)
            self.map = mmap.mmap(self._file, size)
        except BaseException:
            os.close(self._file)
            raise
        _SharedBuffer._count += 1
        self.key = (os.getpid(), _SharedBuffer._count)
        self._set(np.frombuffer(self.map, np.uint8), _HEAD)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "map"):
            close(self._file)

    def is_free(self) -> bool:
        return super().is_free() and not any(self.map[:_MAPPED])

    def send(self) -> tuple[int, Any] | None:
        """Return a number for a tensor that is sent, and the descriptor if the receiver has not got it."""
        number = self.map.find(b"\0", 0, _MAPPED)
        if number < 0:
            return None
        self.map[number] = 1
        return number, None if self.map[_MAPPED] else reduction.DupFd(self._file)


class Pool:
    """The memory of one data set, in one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffers: list[_Buffer] = []
        self._is_shared = _CAN_SHARE and get_worker_info() is not None
        self._process = os.getpid()
        self._size = 0

    def is_of_this_process(self) -> bool:
        """Tell whether this process made the pool, rather than one from which it was forked."""
        return self._process == os.getpid()

    def begin(self, size: int) -> "Memory":
        """Return memory for a batch of about this many bytes."""
        with self._lock:
            self._size = size = max(size, self._size)
            buffer = next((buffer for buffer in self._buffers if buffer.is_free()), None)
            if buffer is not None and len(buffer.bytes) < size:
                self._buffers.remove(buffer)
                buffer = None
            if buffer is None and len(self._buffers) < _MOST:
                room = size + size // 4
                buffer = _SharedBuffer(room) if self._is_shared else _Buffer(room)
                self._buffers.append(buffer)
            # Taken before another thread looks for a free one.
            return Memory(buffer)


class Memory:
    """Where the tensors of a batch are put."""

    def __init__(self, buffer: _Buffer | None) -> None:
        self._buffer = buffer
        self._used = 0
        if buffer is not None:
            self._keep = buffer.bytes[:0]
            buffer.arrays.append(weakref.ref(self._keep))

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "NDArray[Any]":
        """Return an array whose items are not initialized."""
        buffer, start = self._buffer, self._used
        end = start + math.prod(shape) * dtype.itemsize
        if buffer is None or end > len(buffer.bytes):
            return np.empty(shape, dtype)
        array = buffer.bytes[start:end].view(dtype).reshape(shape)
        buffer.arrays.append(weakref.ref(array))
        self._used = end + -end % _ALIGN
        return array

    def tensor(self, array: "NDArray[Any]") -> torch.Tensor:
        """Return a tensor that has the memory of an array."""
        tensor = torch.from_numpy(array)
        buffer = self._buffer
        if isinstance(buffer, _SharedBuffer) and np.may_share_memory(array, buffer.bytes):
            return _Shared.of(tensor, buffer, array)
        return tensor


class _Shared(torch.Tensor):
    """A tensor in a worker whose memory is shared with the receiver of its batches."""

    # What is computed of it is an ordinary tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    _buffer: _SharedBuffer
    _array: "weakref.ref[NDArray[Any]]"

    @classmethod
    def of(cls, tensor: torch.Tensor, buffer: _SharedBuffer, array: "NDArray[Any]") -> "_Shared":
        shared = tensor.as_subclass(cls)
        shared._buffer = buffer
        shared._array = weakref.ref(array)
        return shared

    def plain(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # For all but the loader: a copy, as the buffer will be used again.
        return self.plain().clone().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self.plain().clone()


def _send(tensor: _Shared) -> Any:
    """Reduce a tensor to its place in the buffer, if it still has just what was put there."""
    plain, array, buffer = tensor.detach(), tensor._array(), tensor._buffer
    is_there = (
        array is not None
        and plain.data_ptr() == array.ctypes.data
        and tuple(plain.shape) == array.shape
        and plain.is_contiguous()
        and not tensor.requires_grad
        and buffer.key[0] == os.getpid()
    )
    sent = buffer.send() if is_there else None
    if sent is None or array is None:
        plain = plain.requires_grad_() if tensor.requires_grad else plain
        return reduce_tensor(plain)  # type: ignore[no-untyped-call]
    start = array.ctypes.data - buffer.bytes.ctypes.data + _HEAD
    return _receive, (buffer.key, len(buffer.map), *sent, start, array.shape, array.dtype.str)


reduction.ForkingPickler.register(_Shared, _send)


class _Received:
    """A buffer of a worker that is mapped here."""

    def __init__(self, key: tuple[int, int], handle: Any, size: int) -> None:
        self.key = key
        file = handle.detach()
        try:
            self.map = mmap.mmap(file, size)
        finally:
            os.close(file)
        self.live: dict[int, weakref.ref[NDArray[Any]]] = {}
        self.kept: set[int] = set()
        self.map[_MAPPED] = 1

    def array(self, number: int, start: int, shape: tuple[int, ...], dtype: str) -> "NDArray[Any]":
        kind = np.dtype(dtype)
        count = math.prod(shape)
        array: NDArray[Any] = np.ndarray(shape, kind, self.map, start) if count else np.empty(shape, kind)

        def give_back(_: object) -> None:
            # Called when the tensor is gone. Not if another process may have it: a child, or its parent.
            self.live.pop(number, None)
            if number not in self.kept:
                self.map[number] = 0

        self.live[number] = weakref.ref(array, give_back)
        return array


_received: dict[tuple[int, int], _Received] = {}


def _receive(
    key: tuple[int, int],
    size: int,
    number: int,
    handle: Any,
    start: int,
    shape: tuple[int, ...],
    dtype: str,
) -> torch.Tensor:
    """Return the tensor that a worker has sent."""
    buffer = _received.get(key)
    if buffer is None:
        if handle is None:
            raise RuntimeError("a batch was sent to another process than the one that has mapped its memory")
        _forget_the_dead()
        buffer = _received[key] = _Received(key, handle, size)
    elif handle is not None:  # sent before the buffer was mapped
        os.close(handle.detach())
    return torch.from_numpy(buffer.array(number, start, shape, dtype))


def _forget_the_dead() -> None:
    """Give up the buffers of workers that have ended."""
    for key in list(_received):
        try:
            os.kill(key[0], 0)
        except ProcessLookupError:
            _received.pop(key, None)
        except OSError:
            pass


def _keep_for_children() -> None:
    """Before a fork: a child may use a batch for longer than this process does."""
    for buffer in list(_received.values()):
        buffer.kept.update(list(buffer.live))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_keep_for_children, after_in_child=_received.clear)
