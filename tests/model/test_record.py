"""Our records behave as the standard library's dataclasses: both are made from the same bodies."""

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import pytest

from device_runtime import record


def make(module, **options):
    @module.dataclass(**options)
    class Point:
        """A point."""

        kind: ClassVar[str] = "point"
        x: int
        y: int = 2
        more: Mapping[str, int] = module.field(default_factory=dict)
        hidden: int = module.field(default=0, repr=False, compare=False)

        def total(self):
            return self.x + self.y

    return Point


OPTIONS = [
    {},
    {"frozen": True},
    {"slots": True},
    {"frozen": True, "slots": True},
    {"frozen": True, "order": True, "slots": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_record_behaves_like_a_dataclass(options):
    ours, theirs = make(record, **options), make(dataclasses, **options)
    for cls in (ours, theirs):
        one, other = cls(1), cls(1, 2, {}, hidden=9)
        assert one == other
        assert one != cls(2)
        assert one != 1
        assert one.total() == 3
        assert one.more == {}
        assert one.more is not other.more
        assert cls.kind == "point"
        assert cls.__match_args__ == ("x", "y", "more", "hidden")
        assert copy.copy(one) == one
        assert copy.deepcopy(one) == one
        assert dataclasses.is_dataclass(one)
        assert dataclasses.replace(one, x=5).x == 5
        assert dataclasses.asdict(one) == {"x": 1, "y": 2, "more": {}, "hidden": 0}
        assert [item.name for item in dataclasses.fields(cls)] == ["x", "y", "more", "hidden"]
        for call in ({}, {"x": 1, "z": 1}):
            with pytest.raises(TypeError):
                cls(**call)
    assert repr(ours(1)) == repr(theirs(1)).replace(theirs.__qualname__, ours.__qualname__)
    assert hasattr(ours(1), "__dict__") == hasattr(theirs(1), "__dict__")
    assert (ours.__hash__ is None) == (theirs.__hash__ is None)
    with pytest.raises(AttributeError) as caught:
        ours(1).nothing = 1 if options.get("slots") else ours(1).missing
    if options.get("frozen"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            ours(1).x = 2
        with pytest.raises(dataclasses.FrozenInstanceError):
            del ours(1).x
    if options.get("order"):
        assert ours(1) < ours(2)
        assert not ours(2) <= ours(1)
    assert caught.value


def test_our_own_helpers():
    cls = make(record, frozen=True, slots=True)
    one = cls(1, more={"a": cls(2)})
    assert record.replace(one, y=7) == cls(1, 7, {"a": cls(2)})
    assert record.asdict(one)["more"] == {"a": {"x": 2, "y": 2, "more": {}, "hidden": 0}}
    assert [item.name for item in record.fields(one)] == ["x", "y", "more", "hidden"]


@record.dataclass(frozen=True, slots=True)
class Base:
    a: int
    b: int = 1


@record.dataclass(frozen=True, slots=True)
class Derived(Base):
    c: int = 2

    def __post_init__(self):
        object.__setattr__(self, "c", self.c + 1)


def test_records_are_inherited_pickled_and_hashed():
    made = Derived(5)
    assert (made.a, made.b, made.c) == (5, 1, 3)
    assert pickle.loads(pickle.dumps(made)) == made
    assert hash(made) == hash(Derived(5))
    assert Base(5) != made
    assert repr(made) == "Derived(a=5, b=1, c=3)"


def test_a_mutable_default_is_refused():
    with pytest.raises(ValueError, match="mutable default"):

        @record.dataclass
        class _Wrong:
            items: list = []  # noqa: RUF012


def test_defining_records_imports_no_inspect():
    code = (
        "import sys\nfrom device_runtime.record import dataclass\n"
        "@dataclass(frozen=True, slots=True)\nclass A:\n  x: int = 1\n"
        "assert A().x == 1\nprint('inspect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def named(base):
    class Point(base):
        """A point."""

        x: int
        y: int = 2

        @property
        def total(self):
            return self.x + self.y

        @classmethod
        def of(cls, text):
            return cls(*map(int, text.split()))

    return Point


@pytest.mark.parametrize("base", [record.NamedTuple, NamedTuple], ids=["ours", "theirs"])
def test_a_named_tuple_behaves_like_the_one_of_typing(base):
    made = named(base)
    one = made(1)
    assert one == (1, 2) == made(x=1, y=2) == made._make([1, 2]) == made.of("1 2")
    assert repr(one) == "Point(x=1, y=2)"
    assert (one.x, one.y, one.total) == (1, 2, 3)
    assert one._replace(x=5) == (5, 2)
    assert one._asdict() == {"x": 1, "y": 2}
    assert made._fields == made.__match_args__ == ("x", "y")
    assert made._field_defaults == {"y": 2}
    assert made.__doc__ == "A point."
    assert copy.copy(one) == copy.deepcopy(one) == one
    assert hash(one) == hash((1, 2))
    assert not hasattr(one, "__dict__")
    for wrong in (made, lambda: made(1, 2, 3), lambda: made(1, z=2), lambda: made._make([1])):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises((ValueError, TypeError)):
        one._replace(z=1)
    with pytest.raises(AttributeError):
        one.x = 3


class Pair(record.NamedTuple):
    left: int
    right: str = ""


def test_a_named_tuple_is_pickled_by_its_name():
    assert pickle.loads(pickle.dumps(Pair(1))) == (1, "")
    assert type(pickle.loads(pickle.dumps(Pair(1)))) is Pair
