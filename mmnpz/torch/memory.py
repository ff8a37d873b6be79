"""
Memory for batches, which is used again once no tensor has it.

New memory costs more than what is copied to it: the system hands out pages one by one, each filled with
zeros. So a pool keeps the buffers of batches. A buffer is free when the arrays in it are gone, which a tensor
holds for as long as its storage lives.

In a worker process of a `torch.utils.data.DataLoader` the buffers are shared memory (`memfd_create`). PyTorch
would make new shared memory for each tensor, and the receiver would map it. Here, the receiver gets the
descriptor of a buffer once, and afterwards only a number. Each tensor in a buffer has a byte in its first
ones: the worker sets it when it sends the tensor, and the receiver clears it when its tensor is gone. Where
the receiver has forked since, the tensor may live on elsewhere: the worker gives such a buffer up.
"""

import itertools
import math
import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import get_worker_info

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALIGN = 64

# The first bytes of a shared buffer: one for each tensor that was sent (see `_SENT`), one that tells whether
# a receiver has mapped the buffer, and the token of the worker.
_HEAD = 128
_MAPPED = 63
_TOKEN = slice(64, 80)

# What the byte of a tensor says: the receiver has it, or other processes may have it for ever.
_SENT, _LOST = 1, 2

# How many buffers a pool keeps: more than a loader has under way. Who collects batches gets others.
_MOST = 16

# Of how many batches the largest one tells how large buffers are.
_LAST = 16

# As PyTorch sends a tensor. Its types are not told.
_reduce: Any = reduce_tensor

_CAN_SHARE = hasattr(os, "memfd_create")


class _Buffer:
    """Memory of this process."""

    def __init__(self, size: int) -> None:
        self._set(np.empty(size + _ALIGN, np.uint8))

    def _set(self, memory: "NDArray[np.uint8]", start: int = 0) -> None:
        start += -(memory.ctypes.data + start) % _ALIGN
        self.bytes = memory[start:]
        # Whether a batch is being made in it.
        self.is_taken = False
        # The arrays in it that are there. Entries come and go in any thread, each by one operation.
        self.arrays: dict[object, weakref.ref[NDArray[Any]]] = {}

    def add(self, array: "NDArray[Any]") -> None:
        """Count an array in the buffer for as long as it is there."""
        arrays, key = self.arrays, object()
        arrays[key] = weakref.ref(array, lambda _: arrays.pop(key, None))

    def is_free(self) -> bool:
        return not (self.is_taken or self.arrays)

    def is_lost(self) -> bool:
        """Tell whether the buffer will never be free."""
        return False


class _SharedBuffer(_Buffer):
    """Memory of a worker, which it shares with the process that it sends its tensors to."""

    _count = itertools.count()
    _worker: tuple[int, bytes] = (0, b"")

    def __init__(self, size: int) -> None:
        self.file = os.memfd_create("mmnpz-batch", os.MFD_CLOEXEC)
        try:
            size = -(-(size + _HEAD) // mmap.PAGESIZE) * mmap.PAGESIZE
            os.ftruncate(self.file, size)
            self.map = mmap.mmap(self.file, size)
        except BaseException:
            os.close(self.file)
            raise
        if _SharedBuffer._worker[0] != os.getpid():
            # Another process may have the same number later.
            _SharedBuffer._worker = (os.getpid(), os.urandom(16))
        process, token = _SharedBuffer._worker
        self.key = (process, token, next(_SharedBuffer._count))
        self.map[_TOKEN] = token
        self._lock = threading.Lock()
        self._set(np.frombuffer(self.map, np.uint8), _HEAD)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "map"):
            close(self.file)

    def is_free(self) -> bool:
        return super().is_free() and not any(self.map[:_MAPPED])

    def is_lost(self) -> bool:
        sent = self.map[:_MAPPED]
        return super().is_free() and _LOST in sent and _SENT not in sent

    def send(self) -> tuple[int, Any] | None:
        """Return a number for a tensor that is sent, and the descriptor if no receiver has got it."""
        try:
            handle = None if self.map[_MAPPED] else reduction.DupFd(self.file)
        except OSError:  # no more descriptors, for one
            return None
        with self._lock:
            number = self.map.find(b"\0", 0, _MAPPED)
            if number < 0:
                return None
            self.map[number] = _SENT
        return number, handle


class Pool:
    """The memory of one data set, in one process."""

    def __init__(self) -> None:
        # The collector may run a program's code while it is held.
        self._lock = threading.RLock()
        self._buffers: list[_Buffer] = []
        self._is_shared = _CAN_SHARE and get_worker_info() is not None
        self._process = os.getpid()
        self._sizes: deque[int] = deque(maxlen=_LAST)

    def is_of_this_process(self) -> bool:
        """Tell whether this process made the pool, rather than one from which it was forked."""
        return self._process == os.getpid()

    def begin(self, size: int) -> "Memory":
        """Return memory for a batch of about this many bytes."""
        with self._lock:
            self._sizes.append(size)
            size = max(self._sizes)
            for buffer in list(self._buffers):
                if buffer.is_free():
                    if size <= len(buffer.bytes) <= max(4 * size, 1 << 20):
                        buffer.is_taken = True
                        return Memory(buffer)
                    self._buffers.remove(buffer)
                elif buffer.is_lost():
                    self._buffers.remove(buffer)
            if len(self._buffers) >= _MOST:
                return Memory(None)
            buffer = self._new(size + size // 4)
            buffer.is_taken = True
            self._buffers.append(buffer)
            return Memory(buffer)

    def _new(self, size: int) -> _Buffer:
        if self._is_shared:
            try:
                return _SharedBuffer(size)
            except OSError:  # the system refuses it, and so will PyTorch share tensors as it does
                self._is_shared = False
        return _Buffer(size)


class Memory:
    """Where the tensors of a batch are put, while it is made."""

    def __init__(self, buffer: _Buffer | None) -> None:
        self._buffer = buffer
        self._used = 0

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *_: object) -> None:
        if self._buffer is not None:
            self._buffer.is_taken = False

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "NDArray[Any]":
        """Return an array whose items are not initialized."""
        buffer, start = self._buffer, self._used
        end = start + math.prod(shape) * dtype.itemsize
        if buffer is None or end > len(buffer.bytes):
            return np.empty(shape, dtype)
        array = buffer.bytes[start:end].view(dtype).reshape(shape)
        buffer.add(array)
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

    # What is computed of it is an ordinary tensor: the value that "Extending PyTorch" gives for this. PyTorch
    # types it as another kind of function.
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    # None for a tensor that a program made of this type.
    _buffer: _SharedBuffer | None = None
    _array: "weakref.ref[NDArray[Any]] | None" = None

    @classmethod
    def of(cls, tensor: torch.Tensor, buffer: _SharedBuffer, array: "NDArray[Any]") -> "_Shared":
        shared = tensor.as_subclass(cls)
        shared._buffer = buffer
        shared._array = weakref.ref(array)
        return shared

    def plain(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # For all but the queues of processes (see `_send`): a copy, as the buffer will be used again.
        copied: Any = self.plain().clone()
        return copied.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self.plain().clone()


def _send(tensor: _Shared) -> Any:
    """Reduce a tensor to its place in the buffer, if it still has just what was put there."""
    plain, buffer = tensor.detach(), tensor._buffer
    array = None if tensor._array is None else tensor._array()
    is_there = (
        buffer is not None
        and array is not None
        and plain.data_ptr() == array.ctypes.data
        and tuple(plain.shape) == array.shape
        and plain.is_contiguous()
        and not tensor.requires_grad
        and buffer.key[0] == os.getpid()
    )
    sent = buffer.send() if buffer is not None and is_there else None
    if buffer is None or array is None or sent is None:
        plain = plain.requires_grad_() if tensor.requires_grad else plain
        return _reduce(plain)
    start = array.ctypes.data - buffer.bytes.ctypes.data + _HEAD
    where = (buffer.key, buffer.file, len(buffer.map))
    return _receive, (where, *sent, start, array.shape, array.dtype.str)


reduction.ForkingPickler.register(_Shared, _send)


# The process of a worker and its token, and the number of a buffer.
_Key = tuple[int, bytes, int]


class _Received:
    """A buffer of a worker that is mapped here."""

    # All of them. What runs when a tensor goes finds it here, as the interpreter may end then.
    all: ClassVar[dict[_Key, "_Received"]] = {}
    lost: ClassVar[int] = _LOST

    def __init__(self, where: tuple[_Key, int, int], handle: Any) -> None:
        self.key, file, size = where
        if handle is not None:
            file = handle.detach()
        else:  # another process has mapped it, too
            file = os.open(f"/proc/{self.key[0]}/fd/{file}", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.map = mmap.mmap(file, size)
        finally:
            os.close(file)
        if self.map[_TOKEN] != self.key[1]:
            raise RuntimeError("the worker that sent a batch is gone, and its memory, too")
        self.live: dict[int, weakref.ref[NDArray[Any]]] = {}
        self.kept: set[int] = set()
        self.map[_MAPPED] = 1

    def array(self, number: int, start: int, shape: tuple[int, ...], dtype: str) -> "NDArray[Any]":
        kind = np.dtype(dtype)
        count = math.prod(shape)
        array: NDArray[Any] = np.ndarray(shape, kind, self.map, start) if count else np.empty(shape, kind)
        self.live[number] = weakref.ref(array, lambda _: self.give_back(number))
        return array

    def give_back(self, number: int) -> None:
        """Give the memory of a tensor that is gone back to the worker."""
        self.live.pop(number, None)
        # A child may have it, or the parent of this process.
        is_kept = number in self.kept
        self.map[number] = self.lost if is_kept else 0
        if not self.live and (is_kept or not self.is_alive(self.key[0])):
            self.all.pop(self.key, None)

    @staticmethod
    def is_alive(process: int, kill: Callable[[int, int], None] = os.kill) -> bool:
        """Tell whether there is such a process."""
        try:
            kill(process, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True


def _receive(
    where: tuple[_Key, int, int], number: int, handle: Any, start: int, shape: tuple[int, ...], dtype: str
) -> torch.Tensor:
    """Return the tensor that a worker has sent."""
    received = _Received.all
    buffer = received.get(where[0])
    if buffer is None:
        for key in list(received):
            if not _Received.is_alive(key[0]):
                received.pop(key, None)
        buffer = received[where[0]] = _Received(where, handle)
    elif handle is not None:  # sent before the buffer was mapped
        os.close(handle.detach())
    return torch.from_numpy(buffer.array(number, start, shape, dtype))


def _keep_for_children() -> None:
    """Before a fork: a child may use a batch for longer than this process does."""
    for buffer in list(_Received.all.values()):
        buffer.kept.update(list(buffer.live))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_keep_for_children, after_in_child=_Received.all.clear)
