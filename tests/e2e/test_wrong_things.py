"""Wrong things at a command: one line that says what to do, and nothing half-written."""

from __future__ import annotations

import errno
import shutil

import pytest

from device_runtime.disk import machine_error
from edgepack.setup.starts import copy_folder


def test_a_full_disk_while_a_recipe_is_copied_is_called_a_full_disk(tmp_path, monkeypatch):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "bundle.toml").write_text("x")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(OSError) as caught:
        copy_folder(tmp_path / "recipe", tmp_path / "copy")
    assert machine_error(caught.value, "copying").code == "machine.disk_full"
