"""Every failure has a stable code, an exit status, and tells a person what to do next."""

from __future__ import annotations

import errno

import pytest

import edgepack.errors as base_errors
from device_runtime import errors
from device_runtime.disk import machine_error
from edgepack.cli.screen import as_failure, report_failure

EXITS = {1, 2, 10, 20, 30, 40, 50, 60, 70, 71, 72, 73, 74, 75, 76, 77, 130}


def tree() -> list[type[errors.EdgepackError]]:
    found, todo = [], [errors.EdgepackError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.__module__ in (errors.__name__, base_errors.__name__):
            found.append(kind)
    return found


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_each_error_names_its_code_its_exit_and_what_to_do_next(kind):
    assert kind.exit in EXITS
    assert kind.advice
    assert kind.__doc__
    line = kind("something is wrong").line()
    assert line.startswith(f"error [{kind.code}]: something is wrong")
    assert "\n" not in line


def test_no_two_errors_share_a_code():
    codes = [kind.code for kind in tree()]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "machine.disk_full"),
        (errno.EROFS, "machine.permission"),
        (errno.EACCES, "machine.permission"),
        (errno.EIO, "machine.failed"),
    ],
)
def test_an_os_error_becomes_advice_for_a_person(number, code):
    failure = machine_error(OSError(number, "no", "/a/file"), "saving")
    assert failure.code == code
    assert failure.exit == 77
    assert "/a/file" in failure.what


def test_anything_else_is_one_line_and_called_a_bug_of_ours(capsys):
    assert report_failure(ZeroDivisionError("oops"), as_json=False) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err


def test_control_c_is_exit_130():
    assert as_failure(KeyboardInterrupt()).exit == 130


def test_what_a_library_made_of_control_c_is_an_interruption_still():
    with pytest.raises(base_errors.RecipeError) as raised:
        try:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as pressed:
                raise ImportError("initialization failed") from pressed
        except ImportError:
            raise base_errors.RecipeError("recipe.py does not run") from None
    assert as_failure(raised.value).exit == 130
    assert as_failure(base_errors.RecipeError("recipe.py does not run")).exit == 70


def test_an_error_in_json_is_one_object(capsys):
    import json

    assert report_failure(errors.RollbackError("too old"), as_json=True) == 20
    value = json.loads(capsys.readouterr().out)
    assert value["ok"] is False
    assert value["error"]["code"] == "trust.rollback"
    assert set(value["error"]) == {"code", "what", "why", "next", "exit"}


def test_an_input_error_carries_every_issue(capsys):
    failure = errors.InputError("2 rows are invalid", ["row 1: a", "row 2: b"])
    assert failure.as_json()["issues"] == ["row 1: a", "row 2: b"]
    report_failure(failure, as_json=False)
    assert "row 2: b" in capsys.readouterr().err


def test_what_a_device_says_cannot_steer_the_terminal(capsys):
    from edgepack.cli.screen import Screen

    screen = Screen()
    screen.line("name \x1b[2Jgone\x07")
    screen.table(["a"], [["\x1b]0;title\x07"]])
    report_failure(errors.StickError("\x1b[31mred"), as_json=False)
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "\x07" not in printed.out + printed.err
