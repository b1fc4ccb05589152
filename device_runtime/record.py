"""Records: `dataclass` as the standard library has it, for a program that must start at once.

`dataclasses` imports `inspect`, `ast`, `dis` and `tokenize`, and compiles about seven functions for
each class when it is defined. The device defines some eighty classes on its way to one prediction,
which took longer than the prediction. Here a class costs a few microseconds: `__init__` is compiled
when the first instance is made, the other methods are shared.

What is here behaves as there (tests/model/test_record.py runs both side by side), and `replace`,
`asdict`, `fields` and `is_dataclass` of `dataclasses` work on records. What is not here: `kw_only`,
`InitVar`, `init=False`, `unsafe_hash`, `weakref_slot`.

`NamedTuple` and `Protocol` are those of `typing` to the type checker. While the program runs, a
`NamedTuple` is defined as quickly as a record, and a `Protocol` is an empty class.
"""

from __future__ import annotations

from _collections import _tuplegetter  # type: ignore[import-not-found]
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")
_NONE: Any = object()  # no default
_new_tuple = tuple.__new__


class Field:
    """One field of a record."""

    __slots__ = ("compare", "default", "factory", "name", "repr", "type")

    def __init__(self, default: Any, factory: Any, repr_: bool, compare: bool) -> None:
        self.default, self.factory, self.repr, self.compare = default, factory, repr_, compare
        self.name = ""
        self.type: Any = None


def field(
    *, default: Any = _NONE, default_factory: Any = _NONE, repr: bool = True, compare: bool = True
) -> Any:
    """Describe one field; see `dataclasses.field`."""
    return Field(default, default_factory, repr, compare)


@overload
def dataclass(cls: type[T], /) -> type[T]: ...
@overload
def dataclass(
    *, frozen: bool = False, slots: bool = False, order: bool = False
) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(field_specifiers=(field,))
def dataclass(
    cls: Any = None, /, *, frozen: bool = False, slots: bool = False, order: bool = False
) -> Any:
    """Make a class a record; see `dataclasses.dataclass`."""
    if cls is None:
        return lambda made: _build(made, frozen, slots, order)
    return _build(cls, frozen, slots, order)


def fields(record: Any) -> tuple[Field, ...]:
    """Return the fields of a record or of its class, in order."""
    return tuple(record.__record_fields__.values())


def replace(record: T, /, **changes: Any) -> T:
    """Return a copy with some fields changed."""
    names = record.__record_fields__  # type: ignore[attr-defined]
    given = {name: getattr(record, name) for name in names if name not in changes}
    return type(record)(**given, **changes)


def asdict(record: Any) -> dict[str, Any]:
    """Return the fields as a dict, records and containers inside turned likewise."""
    return {name: _plain(getattr(record, name)) for name in record.__record_fields__}


def _plain(value: Any) -> Any:
    if hasattr(type(value), "__record_fields__"):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if type(value) is tuple:
        return tuple(_plain(item) for item in value)
    return value


# --- making a class ----------------------------------------------------------------------------


def _build(cls: Any, frozen: bool, slots: bool, order: bool) -> Any:
    every: dict[str, Field] = {}
    for base in reversed(cls.__mro__[1:]):
        every.update(base.__dict__.get("__record_fields__", {}))
    inherited = set(every)
    own = _own_fields(cls)
    every.update(own)
    if slots:
        cls = _with_slots(cls, [name for name in own if name not in inherited])
    else:
        for name, item in own.items():
            if item.default is not _NONE:
                setattr(cls, name, item.default)
            elif isinstance(cls.__dict__.get(name), Field):
                delattr(cls, name)
    for name, value in (
        ("__record_fields__", every),
        ("__record_frozen__", frozen),
        ("__match_args__", tuple(every)),
        ("__dataclass_fields__", _ForDataclasses(_dataclass_fields)),
        ("__dataclass_params__", _ForDataclasses(_dataclass_params)),
    ):
        setattr(cls, name, value)
    _add(cls, "__init__", _first_init(cls, frozen, slots))
    _add(cls, "__repr__", _repr)
    compared = [name for name, item in every.items() if item.compare]
    key = _key(compared)
    _add(cls, "__eq__", _comparer(key, "__eq__"))
    if frozen:
        if cls.__dict__.get("__hash__") is None:
            cls.__hash__ = lambda self: hash(key(self))
        _add(cls, "__setattr__", _refuse_set(cls))
        _add(cls, "__delattr__", _refuse_delete(cls))
    elif "__hash__" not in cls.__dict__ or cls.__dict__["__hash__"] is None:
        cls.__hash__ = None
    if order:
        for name in ("__lt__", "__le__", "__gt__", "__ge__"):
            _add(cls, name, _comparer(key, name))
    if slots:
        _add(cls, "__getstate__", _getstate)
        _add(cls, "__setstate__", _setstate)
    return cls


def _own_fields(cls: Any) -> dict[str, Field]:
    found = {}
    for name, kind in vars(cls).get("__annotations__", {}).items():
        if str(kind).startswith(("ClassVar", "typing.ClassVar")):
            continue
        given = cls.__dict__.get(name, _NONE)
        item = given if isinstance(given, Field) else Field(given, _NONE, True, True)
        if isinstance(item.default, (list, dict, set)):
            message = f"mutable default for {name}: use default_factory"
            raise ValueError(message)  # noqa: TRY004  (as `dataclasses` does)
        item.name, item.type = name, kind
        found[name] = item
    return found


def _with_slots(cls: Any, names: list[str]) -> Any:
    space = dict(cls.__dict__)
    for name in (*names, "__dict__", "__weakref__"):
        space.pop(name, None)
    for name in list(space):
        if isinstance(space[name], Field):
            del space[name]
    space["__slots__"] = tuple(names)
    made = type(cls)(cls.__name__, cls.__bases__, space)
    made.__qualname__ = cls.__qualname__
    return made


def _add(cls: Any, name: str, method: Any) -> None:
    """Set a method, unless the class body has its own."""
    if name not in cls.__dict__:
        setattr(cls, name, method)


# --- methods -----------------------------------------------------------------------------------


def _first_init(cls: Any, frozen: bool, slots: bool) -> Callable[..., None]:
    """Return an `__init__` that compiles the real one when it is called first."""

    def first(self: Any, *args: Any, **kwargs: Any) -> None:
        made = _compile_init(cls, frozen, slots)
        cls.__init__ = made
        made(self, *args, **kwargs)

    return first


def _compile_init(cls: Any, frozen: bool, slots: bool) -> Callable[..., None]:
    space: dict[str, Any] = {"_set": object.__setattr__, "_none": _NONE}
    head, body = ["self"], []
    for name, item in cls.__record_fields__.items():
        value = name
        if item.factory is not _NONE:
            space[f"_factory_{name}"] = item.factory
            head.append(f"{name}=_none")
            value = f"_factory_{name}() if {name} is _none else {name}"
        elif item.default is not _NONE:
            space[f"_default_{name}"] = item.default
            head.append(f"{name}=_default_{name}")
        else:
            head.append(name)
        if frozen and slots:
            space[f"_slot_{name}"] = getattr(cls, name).__set__
            body.append(f"_slot_{name}(self, {value})")
        elif frozen:
            body.append(f"_set(self, {name!r}, {value})")
        else:
            body.append(f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    text = f"def __init__({', '.join(head)}):\n " + "\n ".join(body or ["pass"])
    exec(text, space)  # noqa: S102  (text made of the field names of our own classes)
    made: Callable[..., None] = space["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _repr(self: Any) -> str:
    shown = [
        f"{name}={getattr(self, name)!r}"
        for name, item in self.__record_fields__.items()
        if item.repr
    ]
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _key(names: list[str]) -> Callable[[Any], Any]:
    if not names:
        return lambda _: ()
    if len(names) == 1:
        (only,) = names
        return lambda self: (getattr(self, only),)
    return attrgetter(*names)


def _comparer(key: Callable[[Any], Any], name: str) -> Callable[[Any, Any], Any]:
    def compare(self: Any, other: Any) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return getattr(key(self), name)(key(other))

    compare.__name__ = name
    return compare


def _refuse_set(cls: Any) -> Callable[..., None]:
    def refuse(self: Any, name: str, value: Any) -> None:
        if type(self) is cls or name in cls.__record_fields__:
            from dataclasses import FrozenInstanceError

            message = f"cannot assign to field {name!r}"
            raise FrozenInstanceError(message)
        super(cls, self).__setattr__(name, value)

    return refuse


def _refuse_delete(cls: Any) -> Callable[..., None]:
    def refuse(self: Any, name: str) -> None:
        if type(self) is cls or name in cls.__record_fields__:
            from dataclasses import FrozenInstanceError

            message = f"cannot delete field {name!r}"
            raise FrozenInstanceError(message)
        super(cls, self).__delattr__(name)

    return refuse


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__record_fields__]


def _setstate(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__record_fields__, state, strict=True):
        object.__setattr__(self, name, value)


# --- for those who call `dataclasses` on a record ------------------------------------------------


class _ForDataclasses:
    """Computed when the standard library asks for it."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __get__(self, _: Any, owner: Any) -> Any:
        return self._make(owner)


def _dataclass_fields(cls: Any) -> dict[str, Any]:
    import dataclasses

    found = {}
    for name, item in cls.__record_fields__.items():
        options: dict[str, Any] = {"repr": item.repr, "compare": item.compare}
        if item.default is not _NONE:
            options["default"] = item.default
        if item.factory is not _NONE:
            options["default_factory"] = item.factory
        made: Any = dataclasses.field(**options)
        made.name, made.type = name, item.type
        made._field_type = dataclasses._FIELD  # type: ignore[attr-defined]  # noqa: SLF001
        found[name] = made
    return found


def _dataclass_params(cls: Any) -> Any:
    import dataclasses

    return dataclasses._DataclassParams(  # type: ignore[attr-defined]  # noqa: SLF001
        True, True, True, False, False, cls.__record_frozen__
    )


# --- named tuples and protocols ------------------------------------------------------------------


def _first_new(cls: Any, *args: Any, **named: Any) -> Any:
    """Compile the real `__new__` when the first instance is made."""
    head = [f"{key}=_{key}" if key in cls._field_defaults else key for key in cls._fields]
    space = {f"_{key}": value for key, value in cls._field_defaults.items()}
    space["_new"] = _new_tuple
    text = f"def __new__(_cls, {', '.join(head)}): return _new(_cls, ({', '.join(cls._fields)},))"
    exec(text, space)  # noqa: S102  (text made of the field names of our own classes)
    cls.__new__ = staticmethod(space["__new__"])
    return cls.__new__(cls, *args, **named)


class _Named(tuple):  # type: ignore[type-arg]
    __slots__ = ()
    _fields: tuple[str, ...] = ()

    @classmethod
    def _make(cls, values: Any) -> Any:
        made = _new_tuple(cls, values)
        if len(made) != len(cls._fields):
            message = f"{len(cls._fields)} values are wanted, {len(made)} were given"
            raise TypeError(message)
        return made

    def _replace(self, /, **changes: Any) -> Any:
        made = self._make(map(changes.pop, self._fields, self))
        if changes:
            message = f"there are no fields {list(changes)}"
            raise ValueError(message)
        return made

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self._asdict().items())
        return f"{type(self).__name__}({shown})"

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)


class _Naming(type):
    """Makes a class with annotated fields a tuple with names, as `typing.NamedTuple` does."""

    def __new__(meta, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> Any:
        if not bases:
            return super().__new__(meta, name, bases, space)
        names = tuple(space.get("__annotations__", ()))
        defaults = {key: space.pop(key) for key in names if key in space}
        space.update((key, _tuplegetter(at, key)) for at, key in enumerate(names))
        space |= {"__slots__": (), "_fields": names, "__match_args__": names}
        return type(name, (_Named,), {**space, "_field_defaults": defaults, "__new__": _first_new})


if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414
    from typing import Protocol as Protocol  # noqa: PLC0414
else:

    class NamedTuple(metaclass=_Naming):
        """A tuple whose fields have names; see `typing.NamedTuple`."""

    class Protocol:
        """What a class must have; only type checkers care."""

        __slots__ = ()
