"""A start is short: what is imported for one row, how a command line is read."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from device_runtime import cli, crypt
from device_runtime.arguments import Argument, Command, help_of, read
from device_runtime.errors import UsageError

ROWS = b"id,at,x,c\n1,,3,a\n2,,-3,b\n"
SMALL_START = """
import sys
from device_runtime.cli import run
code = run(["predict", "-", "--home", sys.argv[1]])
heavy = {"argparse", "dataclasses", "inspect", "numpy", "onnxruntime"}
heavy |= {"tuf", "securesystemslib", "typer", "rich"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


def test_one_row_through_the_real_command_imports_nothing_heavy(lab):
    for rows in (ROWS, b"id,at,x,c\n" + b"1,,0.1,a\n" * 30):
        done = subprocess.run(
            [sys.executable, "-c", SMALL_START, str(lab.root)],
            input=rows,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.decode().strip() == "[]"


STATUS = """
import sys
from device_runtime.cli import run
code = run(["status", "--home", sys.argv[1]])
heavy = {"numpy", "tuf", "onnxruntime", "socket", "csv", "argparse", "dataclasses", "hashlib"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def test_status_starts_light(lab):
    done = subprocess.run(
        [sys.executable, "-c", STATUS, str(lab.root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


PATHS = """
import sys
from device_runtime.__main__ import import_paths
import_paths()
from pathlib import Path
print({"urllib.parse", "ipaddress"} & set(sys.modules))
print(Path("/a b/\u00e9").as_uri())
import urllib.parse
print(urllib.parse.quote("a b"))
"""


def test_paths_start_without_urls_and_make_them_when_they_are_asked_for():
    done = subprocess.run(
        [sys.executable, "-I", "-c", PATHS], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["set()", "file:///a%20b/%C3%A9", "a%20b"]


COMMAND = Command(
    print,
    "does something",
    (
        Argument("FILE", "what", default="-"),
        Argument("MORE"),
        Argument("--out-to", "where", "F"),
        Argument("--port", "which", "N", kind=int),
        Argument("--kind", "of", "K", "a", choices=("a", "b")),
        Argument("--dry", default=False),
    ),
)
PLAIN = {"file": "-", "more": None, "out_to": None, "port": None, "kind": "a", "dry": False}


@pytest.mark.parametrize(
    ("typed", "changes"),
    [
        ("", {}),
        ("x --dry", {"file": "x", "dry": True}),
        ("- y", {"file": "-", "more": "y"}),
        ("--out-to f x", {"out_to": "f", "file": "x"}),
        ("--out-to=--odd", {"out_to": "--odd"}),
        ("--out-to --odd", {"out_to": "--odd"}),
        ("--port 8 --kind=b", {"port": 8, "kind": "b"}),
        ("x -1.5", {"file": "x", "more": "-1.5"}),
        ("-- --dry -h", {"file": "--dry", "more": "-h"}),
    ],
)
def test_a_command_line_is_read(typed, changes):
    assert read("p", COMMAND, typed.split()) == SimpleNamespace(**{**PLAIN, **changes})


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("a b c", "unexpected: c"),
        ("--fly", "no option --fly"),
        ("-x", "no option -x"),
        ("--out-to", "needs a value: F"),
        ("--port x", "whole number, not x"),
        ("--kind c", "one of a, b, not c"),
        ("--dry=1", "takes no value"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong_and_where_to_look(typed, said):
    with pytest.raises(UsageError, match=said) as wrong:
        read("p", COMMAND, typed.split())
    assert wrong.value.next == "see: p --help"


def test_what_must_be_given_is_asked_for():
    with pytest.raises(UsageError, match="missing: FILE"):
        read("p", Command(print, "", (Argument("FILE", needed=True),)), [])


def test_every_command_has_a_help(capsys):
    assert read("p", COMMAND, ["-h"]) is None
    assert "--kind {a,b}" in help_of("p", COMMAND)
    assert cli.run(["--help"]) == 0
    listing = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert command.help in listing
        assert cli.run([name, "--help"]) == 0
        assert "--home DIR" in capsys.readouterr().out
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("edgepack-device ")


@pytest.mark.parametrize(
    ("family", "name", "public"),
    [
        ("aead", "AESGCM", "ciphers.aead AESGCM"),
        ("ed25519", "from_public_bytes", "asymmetric.ed25519 Ed25519PublicKey from_public_bytes"),
        (
            "mldsa",
            "from_mldsa65_public_bytes",
            "asymmetric.mldsa MLDSA65PublicKey from_public_bytes",
        ),
    ],
)
def test_another_build_of_cryptography_is_used_by_its_public_names(family, name, public):
    assert crypt._made(family, name, public) is not None
    fallback = crypt._made("nothing", "here", public)
    assert fallback.__name__ == public.split()[-1]
    with pytest.raises(AttributeError):
        crypt._made("nothing", "here", "hashes NoSuchThing")
