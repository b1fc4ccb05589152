"""A model on onnxruntime's C API: needs neither numpy nor the onnxruntime package."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any

from device_runtime.errors import ModelLoadError, RunError
from device_runtime.model.ortlib import Library, ReadOnly
from device_runtime.record import dataclass

_POINTER = ctypes.c_void_p
PADDING = 16  # zero bytes behind a text, so that its last words can be read whole

# Element types of the C API → our dtypes (ONNX's own numbers, 1 to 13).
ELEMENT = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    8: "string", 9: "bool", 11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
CODE = {dtype: code for code, dtype in ELEMENT.items()}
_WIDTH = {
    "float32": 4, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "int32": 4, "int64": 8,
    "bool": 1, "float64": 8, "uint32": 4, "uint64": 8,
}  # fmt: skip


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
        self._texts: dict[tuple[str, ...], Any] = {}  # names as the library wants them
        try:
            self._load(model, threads)
            self.inputs = self._ports("Input")
            self.outputs = self._ports("Output")
            self._dtypes = {port.name: port.dtype for port in self.outputs}
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
        element = ctypes.c_int()
        self._lib.call("GetTensorElementType", tensor, ctypes.byref(element))
        return ELEMENT.get(element.value, ""), self._shape(tensor)

    def _shape(self, tensor: Any) -> tuple[int, ...]:
        rank = ctypes.c_size_t()
        self._lib.call("GetDimensionsCount", tensor, ctypes.byref(rank))
        sizes = (ctypes.c_int64 * rank.value)()
        self._lib.call("GetDimensions", tensor, sizes, rank.value)
        return tuple(sizes)

    def run(self, feeds: dict[str, Feed], outputs: Sequence[str]) -> list[Any]:
        """Run the model once.

        Args:
            feeds: Input name → tensor.
            outputs: Names of the outputs that are wanted, in the order of the answer.

        Returns:
            The values of each output: bytes as they lie, or `Strings`.

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
                self._names(tuple(feeds)),
                (_POINTER * len(values))(*values),
                len(values),
                self._names(tuple(outputs)),
                len(outputs),
                wanted,
            )
            return [self._read(name, value) for name, value in zip(outputs, wanted, strict=True)]
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

    def _names(self, names: tuple[str, ...]) -> Any:
        made = self._texts.get(names)
        if made is None:
            texts = (ctypes.c_char_p * len(names))(*(name.encode() for name in names))
            made = self._texts[names] = ctypes.cast(texts, ctypes.POINTER(_POINTER))
        return made

    def _read(self, name: str, value: Any) -> Any:
        lib, dtype = self._lib, self._dtypes[name]
        if not dtype:
            raise RunError("an output of the model is not a tensor")
        info, size = lib.make("GetTensorTypeAndShape", value, error=RunError), ctypes.c_size_t()
        try:
            lib.call("GetTensorShapeElementCount", info, ctypes.byref(size))
        finally:
            lib.release("TensorTypeAndShapeInfo", info)
        if dtype == "string":
            return self._strings(value, size.value)
        source = lib.make("GetTensorMutableData", value, error=RunError)
        return ctypes.string_at(source, size.value * _WIDTH[dtype])

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
