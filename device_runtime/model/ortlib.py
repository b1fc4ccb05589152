"""onnxruntime's shared library by ctypes: its table of functions, errors, releases.

The wheel of onnxruntime ships the whole C library. Loading that alone starts in a quarter of the
time that `import numpy, onnxruntime` takes. The C API is one table of function pointers that only
ever grows at its end, so the places below hold for every version from `LEAST` on.

Source: onnxruntime_c_api.h (struct OrtApi), MIT licence.
"""

from __future__ import annotations

import ctypes
import os
import sys
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from device_runtime.errors import EdgepackError, ModelLoadError, RunError

TESTED = 22  # highest version of the table that is asked for; newer libraries serve it too
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
    "Run": (9, (_POINTER, _POINTER, _OUT, _OUT, ctypes.c_size_t, _OUT, ctypes.c_size_t, _OUT)),
    "CreateSessionOptions": (10, (_OUT,)),
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
        (_POINTER, _POINTER, ctypes.c_size_t, _POINTER, ctypes.c_size_t, ctypes.c_int, _OUT),
    ),
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
    "GetTensorShapeElementCount": (64, (_POINTER, _SIZE_OUT)),
    "GetTensorTypeAndShape": (65, (_POINTER, _OUT)),
    "CreateCpuMemoryInfo": (69, (ctypes.c_int, ctypes.c_int, _OUT)),
    "AllocatorFree": (76, (_POINTER, _POINTER)),
    "GetAllocatorWithDefaultOptions": (78, (_OUT,)),
}
_ERROR_MESSAGE = 2
_ARENAS, _MAPPED_FROM, _TRIMMED_FROM = -8, -3, -1  # of glibc's mallopt
_RELEASE = {
    "Env": 92, "Status": 93, "MemoryInfo": 94, "Session": 95, "Value": 96, "TypeInfo": 98,
    "TensorTypeAndShapeInfo": 99, "SessionOptions": 100,
}  # fmt: skip


def library_path() -> str:
    """Return the path of onnxruntime's C library in the installed wheel.

    Raises:
        ModelLoadError: onnxruntime is not installed, or ships no C library.
    """
    for folder in _folders():
        try:
            names = os.listdir(os.path.join(folder, "capi"))
        except OSError:
            continue
        found = max((name for name in names if name.startswith("libonnxruntime.so")), default="")
        if found:
            return os.path.join(folder, "capi", found)
    raise ModelLoadError(
        "onnxruntime's C library was not found",
        next="install the wheel onnxruntime, or try: edgepack-device predict --engine python",
    )


def _folders() -> Iterator[str]:
    """Yield where the package may lie: on the path, or where its importer says."""
    for entry in sys.path:
        yield os.path.join(entry, "onnxruntime")
    from importlib.util import find_spec  # 1 ms, and hardly ever needed

    spec = find_spec("onnxruntime")
    yield from (spec.submodule_search_locations or ()) if spec else ()


def no_telemetry() -> None:
    """Keep onnxruntime from reporting to its makers; before the library is loaded.

    Since 1.3x its Linux wheels open a data base in the user's cache and a thread that uploads to
    the internet, unless this is set. A device has no network, and nobody asked.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


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


def two_heaps() -> None:
    """Keep memory constant however long a run is: for a process that is only a device.

    glibc gives every thread a heap of its own and enlarges what it keeps of freed blocks; reading
    ten million rows then takes 372 MB instead of 206. Two heaps, from which large blocks go back at
    once, are enough: with one, a start waits for the thread that loads onnxruntime (6 ms of 68).
    """
    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in ((_ARENAS, 2), (_MAPPED_FROM, 1 << 20), (_TRIMMED_FROM, 8 << 20)):
            mallopt(name, value)


class Library:
    """The C library and its environment; one per session, the library itself is loaded once.

    Args:
        path: Of the shared library; None finds the installed one.

    Raises:
        ModelLoadError: It is not there, cannot be loaded, or is too old.
    """

    def __init__(self, path: str | None = None) -> None:
        path = path or library_path()
        no_telemetry()
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


class Ahead:
    """Loads the library on a thread of its own while the caller imports and verifies.

    Relocating 35 MB and registering a thousand operators takes 20 ms, all of it outside the
    interpreter. Keep this object until the model is loaded: the environment is shared.
    """

    def __init__(self) -> None:
        two_heaps()
        self._library: Library | None = None
        start_new_thread(self._load, ())

    def _load(self) -> None:
        with suppress(EdgepackError):  # whoever opens the model meets it again and says so
            self._library = Library()


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
