"""onnxruntime's C API by ctypes: a session without numpy, and without importing onnxruntime.

The wheel of onnxruntime ships the whole C library. Loading that alone starts in a quarter of the
time that `import numpy, onnxruntime` takes. The C API is one table of function pointers that only
ever grows at its end, so the places below hold for every version from `LEAST` on.

Source: onnxruntime_c_api.h (struct OrtApi), MIT licence.
"""

from __future__ import annotations

import ctypes
import glob
import os
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from device_runtime.errors import EdgepackError, ModelLoadError, RunError
from device_runtime.record import dataclass

TESTED = 22  # highest version of the table that is asked for; newer libraries serve it too
PADDING = 16  # zero bytes behind a text, so that its last words can be read whole
LEAST = 15  # lowest version in which everything below exists

_POINTER = ctypes.c_void_p
_OUT = ctypes.POINTER(ctypes.c_void_p)
_SIZE_OUT = ctypes.POINTER(ctypes.c_size_t)
_INT_OUT = ctypes.POINTER(ctypes.c_int)
_TEXT = ctypes.c_char_p

# name → (place in the table, types of the arguments); all of these return a status.
_CALLS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "CreateEnv": (3, (ctypes.c_int, _TEXT, _OUT)),
    "CreateSessionFromArray": (8, (_POINTER, _POINTER, ctypes.c_size_t, _POINTER, _OUT)),
    "Run": (
        9,
        (_POINTER, _POINTER, _OUT, _OUT, ctypes.c_size_t, _OUT, ctypes.c_size_t, _OUT),
    ),
    "CreateSessionOptions": (10, (_OUT,)),
    "DisableCpuMemArena": (19, (_POINTER,)),
    "SetSessionLogSeverityLevel": (22, (_POINTER, ctypes.c_int)),
    "SetIntraOpNumThreads": (24, (_POINTER, ctypes.c_int)),
    "SetInterOpNumThreads": (25, (_POINTER, ctypes.c_int)),
    "SessionGetInputCount": (30, (_POINTER, _SIZE_OUT)),
    "SessionGetOutputCount": (31, (_POINTER, _SIZE_OUT)),
    "SessionGetInputTypeInfo": (33, (_POINTER, ctypes.c_size_t, _OUT)),
    "SessionGetOutputTypeInfo": (34, (_POINTER, ctypes.c_size_t, _OUT)),
    "SessionGetInputName": (36, (_POINTER, ctypes.c_size_t, _POINTER, _OUT)),
    "SessionGetOutputName": (37, (_POINTER, ctypes.c_size_t, _POINTER, _OUT)),
    "CreateTensorAsOrtValue": (48, (_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_int, _OUT)),
    "CreateTensorWithDataAsOrtValue": (
        49,
        (
            _POINTER,
            _POINTER,
            ctypes.c_size_t,
            _POINTER,
            ctypes.c_size_t,
            ctypes.c_int,
            _OUT,
        ),
    ),
    "IsTensor": (50, (_POINTER, _INT_OUT)),
    "GetTensorMutableData": (51, (_POINTER, _OUT)),
    "FillStringTensor": (52, (_POINTER, _POINTER, ctypes.c_size_t)),
    "GetStringTensorDataLength": (53, (_POINTER, _SIZE_OUT)),
    "GetStringTensorContent": (
        54,
        (_POINTER, _POINTER, ctypes.c_size_t, _POINTER, ctypes.c_size_t),
    ),
    "CastTypeInfoToTensorInfo": (55, (_POINTER, _OUT)),
    "GetTensorElementType": (60, (_POINTER, _INT_OUT)),
    "GetDimensionsCount": (61, (_POINTER, _SIZE_OUT)),
    "GetDimensions": (62, (_POINTER, _POINTER, ctypes.c_size_t)),
    "GetTensorTypeAndShape": (65, (_POINTER, _OUT)),
    "CreateCpuMemoryInfo": (69, (ctypes.c_int, ctypes.c_int, _OUT)),
    "AllocatorFree": (76, (_POINTER, _POINTER)),
    "GetAllocatorWithDefaultOptions": (78, (_OUT,)),
    "AddSessionConfigEntry": (130, (_POINTER, _TEXT, _TEXT)),
}
_ERROR_MESSAGE = 2
_RELEASE = {
    "Env": 92,
    "Status": 93,
    "MemoryInfo": 94,
    "Session": 95,
    "Value": 96,
    "TypeInfo": 98,
    "TensorTypeAndShapeInfo": 99,
    "SessionOptions": 100,
}

# Element types of the C API → our dtypes (ONNX's own numbers, 1 to 13).
ELEMENT = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
CODE = {dtype: code for code, dtype in ELEMENT.items()}


def library_path() -> str:
    """Return the path of onnxruntime's C library in the installed wheel.

    Raises:
        ModelLoadError: onnxruntime is not installed, or ships no C library.
    """
    from importlib.util import find_spec

    spec = find_spec("onnxruntime")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        found = sorted(glob.glob(os.path.join(glob.escape(folder), "capi", "libonnxruntime.so*")))
        if found:
            return found[-1]
    raise ModelLoadError(
        "onnxruntime's C library was not found",
        next="install the wheel onnxruntime, or try: edgepack-device predict --engine python",
    )


def installed_version() -> str:
    """Return the version of the installed onnxruntime, such as "1.32.0", without loading it.

    Raises:
        ModelLoadError: It is not installed.
    """
    name = os.path.basename(library_path())
    version = name.partition(".so.")[2]
    if version:
        return version
    from importlib.metadata import version as installed

    return installed("onnxruntime")


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a loaded model.

    Attributes:
        name: As in the graph.
        dtype: A value of `ELEMENT`; "" for anything but a tensor of these.
        shape: Sizes, -1 where a size is open.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Feed:
    """One input tensor of a run.

    Attributes:
        dtype: Element type.
        shape: All sizes.
        data: Writable buffer in row-major order (it is not written); for strings an array of
            addresses of NUL-terminated UTF-8.
        keep: What must live as long as the run.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Any
    keep: Any = None


@dataclass(frozen=True, slots=True)
class Strings:
    """The strings of an output tensor.

    Attributes:
        text: UTF-8, one behind the other, and then `PADDING` zero bytes.
        starts: Where each begins; one more for the end of the last.
    """

    text: bytearray
    starts: array[int]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def tolist(self) -> list[str]:
        """Return Python strings."""
        text, starts = self.text, self.starts
        return [
            text[starts[at] : starts[at + 1]].decode("utf-8", "replace") for at in range(len(self))
        ]


class Library:
    """The C library and its environment; one per session, the library itself is loaded once.

    Args:
        path: Of the shared library; None finds the installed one.

    Raises:
        ModelLoadError: It is not there, cannot be loaded, or is too old.
    """

    def __init__(self, path: str | None = None) -> None:
        path = path or library_path()
        try:
            base = ctypes.CDLL(path).OrtGetApiBase
        except (OSError, AttributeError) as error:
            raise ModelLoadError(f"onnxruntime's C library cannot be loaded: {error}") from None
        base.restype = ctypes.POINTER(_POINTER)
        get_api = ctypes.CFUNCTYPE(_POINTER, ctypes.c_uint32)(base()[0])
        get_version = ctypes.CFUNCTYPE(_TEXT)(base()[1])
        self.version = (get_version() or b"").decode()
        # Asking for a version that is not there prints to stderr, so start at what it claims.
        newest = int([*self.version.split("."), "0"][1])
        table = None
        for version in range(min(TESTED, newest), LEAST - 1, -1):
            table = table or get_api(version)
        if not table:
            raise ModelLoadError(
                f"onnxruntime {self.version} is too old; 1.{LEAST} or newer is needed"
            )
        self._table = ctypes.cast(table, ctypes.POINTER(_POINTER))
        self._message = ctypes.CFUNCTYPE(_TEXT, _POINTER)(self._table[_ERROR_MESSAGE])
        self._calls: dict[str, Callable[..., int | None]] = {}
        self._releases: dict[str, Callable[[Any], None]] = {}
        self.env = self.make("CreateEnv", 4, b"edgepack")

    def call(self, name: str, *args: Any, error: type[EdgepackError] = RunError) -> None:
        """Call one function of the table; a bad status becomes `error` with its message."""
        function = self._calls.get(name)
        if function is None:
            place, types = _CALLS[name]
            function = ctypes.CFUNCTYPE(_POINTER, *types)(self._table[place])
            self._calls[name] = function
        status = function(*args)
        if status:
            message = (self._message(status) or b"").decode("utf-8", "replace")
            self.release("Status", status)
            raise error(_one_line(message))

    def make(self, name: str, *args: Any, error: type[EdgepackError] = ModelLoadError) -> _POINTER:
        """Call a function whose last argument is the thing that it makes."""
        made = _POINTER()
        self.call(name, *args, ctypes.byref(made), error=error)
        return made

    def release(self, kind: str, handle: Any) -> None:
        """Give a handle back."""
        function = self._releases.get(kind)
        if function is None:
            function = ctypes.CFUNCTYPE(None, _POINTER)(self._table[_RELEASE[kind]])
            self._releases[kind] = function
        function(handle)

    def close(self) -> None:
        """Release the environment."""
        if self.env.value:
            self.release("Env", self.env)
            self.env = _POINTER()


class Model:
    """A model loaded by the C library.

    Args:
        model: Raw ONNX, read during construction only.
        threads: Threads within one operator.
        library: Which library; None loads the installed one.

    Raises:
        ModelLoadError: With onnxruntime's reason.
    """

    def __init__(
        self, model: bytes | memoryview, *, threads: int = 1, library: Library | None = None
    ) -> None:
        self._lib = library or Library()
        self._session: Any = None
        self._memory: Any = None
        try:
            self._load(model, threads)
            self.inputs = self._ports("Input")
            self.outputs = self._ports("Output")
        except BaseException:
            self.close()
            raise

    def _load(self, model: bytes | memoryview, threads: int) -> None:
        lib = self._lib
        self._memory = lib.make("CreateCpuMemoryInfo", 1, 0)
        options = lib.make("CreateSessionOptions")
        try:
            for name, value in (
                ("SetIntraOpNumThreads", threads),
                ("SetInterOpNumThreads", 1),
                ("SetSessionLogSeverityLevel", 4),
            ):
                lib.call(name, options, value, error=ModelLoadError)
            with ReadOnly(model) as (address, size):
                self._session = lib.make("CreateSessionFromArray", lib.env, address, size, options)
        finally:
            lib.release("SessionOptions", options)

    def _ports(self, side: str) -> tuple[Port, ...]:
        lib, count = self._lib, ctypes.c_size_t()
        lib.call(f"SessionGet{side}Count", self._session, ctypes.byref(count))
        allocator = lib.make("GetAllocatorWithDefaultOptions")
        ports = []
        for index in range(count.value):
            text = lib.make(f"SessionGet{side}Name", self._session, index, allocator)
            name = ctypes.string_at(text.value or 0).decode("utf-8", "replace")
            lib.call("AllocatorFree", allocator, text)
            info = lib.make(f"SessionGet{side}TypeInfo", self._session, index)
            try:
                # A view into `info`: null for sequences and maps, and not to be released.
                tensor = lib.make("CastTypeInfoToTensorInfo", info)
                dtype, shape = self._describe(tensor) if tensor.value else ("", ())
            finally:
                lib.release("TypeInfo", info)
            ports.append(Port(name, dtype, shape))
        return tuple(ports)

    def _describe(self, tensor: Any) -> tuple[str, tuple[int, ...]]:
        lib, element, rank = self._lib, ctypes.c_int(), ctypes.c_size_t()
        lib.call("GetTensorElementType", tensor, ctypes.byref(element))
        lib.call("GetDimensionsCount", tensor, ctypes.byref(rank))
        sizes = (ctypes.c_int64 * rank.value)()
        lib.call("GetDimensions", tensor, sizes, rank.value)
        return ELEMENT.get(element.value, ""), tuple(sizes)

    def run(self, feeds: dict[str, Feed], outputs: Sequence[str]) -> list[Any]:
        """Run the model once.

        Args:
            feeds: Input name → tensor.
            outputs: Names of the outputs that are wanted, in the order of the answer.

        Returns:
            One (shape, values) per output; values are raw bytes as `bytearray`, or `Strings`.

        Raises:
            RunError: With onnxruntime's reason.
        """
        lib = self._lib
        values: list[Any] = []
        wanted = (_POINTER * len(outputs))()
        try:
            values.extend(map(self._tensor, feeds.values()))
            lib.call(
                "Run",
                self._session,
                None,
                _names(feeds),
                (_POINTER * len(values))(*values),
                len(values),
                _names(outputs),
                len(outputs),
                wanted,
            )
            return [self._read(value) for value in wanted]
        finally:
            for value in (*values, *wanted):
                if value:
                    lib.release("Value", value)

    def _tensor(self, feed: Feed) -> Any:
        lib, rank = self._lib, len(feed.shape)
        shape = (ctypes.c_int64 * rank)(*feed.shape)
        if feed.dtype == "string":
            allocator = lib.make("GetAllocatorWithDefaultOptions", error=RunError)
            value = lib.make(
                "CreateTensorAsOrtValue", allocator, shape, rank, CODE["string"], error=RunError
            )
            try:
                view = memoryview(feed.data).cast("B")
                address = ctypes.addressof(ctypes.c_char.from_buffer(view))
                lib.call("FillStringTensor", value, address, view.nbytes // 8)
            except BaseException:
                lib.release("Value", value)
                raise
            return value
        view = memoryview(feed.data).cast("B")
        return lib.make(
            "CreateTensorWithDataAsOrtValue",
            self._memory,
            ctypes.addressof(ctypes.c_char.from_buffer(view)),
            view.nbytes,
            shape,
            rank,
            CODE[feed.dtype],
            error=RunError,
        )

    def _read(self, value: Any) -> tuple[tuple[int, ...], Any]:
        lib, is_tensor = self._lib, ctypes.c_int()
        lib.call("IsTensor", value, ctypes.byref(is_tensor))
        if not is_tensor.value:
            raise RunError("an output of the model is not a tensor")
        info = lib.make("GetTensorTypeAndShape", value, error=RunError)
        try:
            dtype, shape = self._describe(info)
        finally:
            lib.release("TensorTypeAndShapeInfo", info)
        count = 1
        for size in shape:
            count *= size
        if dtype == "string":
            return shape, self._strings(value, count)
        data = bytearray(count * _WIDTH.get(dtype, 0))
        if data:
            source = lib.make("GetTensorMutableData", value, error=RunError)
            ctypes.memmove(
                ctypes.addressof(ctypes.c_char.from_buffer(data)), source.value or 0, len(data)
            )
        return shape, data

    def _strings(self, value: Any, count: int) -> Strings:
        size = ctypes.c_size_t()
        self._lib.call("GetStringTensorDataLength", value, ctypes.byref(size))
        text = bytearray(size.value + PADDING)
        starts = array("Q", bytes(8 * (count + 1)))
        self._lib.call(
            "GetStringTensorContent",
            value,
            ctypes.addressof(ctypes.c_char.from_buffer(text)),
            size.value,
            starts.buffer_info()[0],
            count,
        )
        starts[count] = size.value
        return Strings(text, starts)

    def close(self) -> None:
        """Release everything, in the right order; harmless when repeated."""
        if self._session:
            self._lib.release("Session", self._session)
        if self._memory:
            self._lib.release("MemoryInfo", self._memory)
        self._session = self._memory = None
        self._lib.close()


_WIDTH = {
    "float32": 4, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "int32": 4, "int64": 8,
    "bool": 1, "float64": 8, "uint32": 4, "uint64": 8,
}  # fmt: skip


def _names(names: Sequence[str] | dict[str, Feed]) -> Any:
    return ctypes.cast((_TEXT * len(names))(*(name.encode() for name in names)), _OUT)


def _one_line(message: str) -> str:
    """Return the message without new lines and without the places in onnxruntime's sources."""
    line = " ".join(message.split())
    return line if len(line) <= 400 else f"{line[:400]}…"


class _PyBuffer(ctypes.Structure):
    """CPython's Py_buffer, to learn the address of a read-only mapping."""

    _fields_ = (
        ("buf", _POINTER), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
        ("format", _TEXT), ("shape", _POINTER), ("strides", _POINTER), ("suboffsets", _POINTER),
        ("internal", _POINTER),
    )  # fmt: skip


class ReadOnly:
    """Address and size of any contiguous buffer, also a read-only one, without a copy."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._buffer = _PyBuffer()

    def __enter__(self) -> tuple[int, int]:
        ctypes.pythonapi.PyObject_GetBuffer(
            ctypes.py_object(self._data), ctypes.byref(self._buffer), 0
        )
        return self._buffer.buf or 0, self._buffer.len

    def __exit__(self, *_: object) -> None:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(self._buffer))
