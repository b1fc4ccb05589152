"""onnxruntime's shared library, called by places in its table."""

import ctypes

import pytest

from device_runtime.errors import ModelLoadError
from device_runtime.model import ortlib


def test_the_places_in_the_table_are_right():
    """A wrong place would call something else: these have effects that can be seen."""
    library = ortlib.Library()
    options = library.make("CreateSessionOptions")
    with ortlib.ReadOnly(b"no model at all") as (address, size):
        with pytest.raises(ModelLoadError, match=r"[Pp]rotobuf"):
            library.make("CreateSessionFromArray", library.env, address, size, options)
    library.release("SessionOptions", options)
    library.close()
    assert ortlib.installed_version() == library.version


def test_a_library_that_is_none_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        ortlib.Library(str(tmp_path / "nothing.so"))
    other = ctypes.util.find_library("c") if hasattr(ctypes, "util") else "libc.so.6"
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        ortlib.Library(other)


def test_the_library_is_loaded_ahead_and_shared():
    """What a thread loads in the meantime is what the session then gets; nobody waits twice."""
    ahead = ortlib.Ahead()
    library = ortlib.Library()
    assert library.version == ortlib.installed_version()
    library.close()
    del ahead
