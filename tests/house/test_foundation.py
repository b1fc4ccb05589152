"""Disk, cryptography, canonical JSON and the signed records that everything stands on."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime import crypt, policy
from device_runtime.disk import RealDisk, lock, write_all, write_durable
from device_runtime.errors import (
    BusyError,
    FormatError,
    NotCanonicalError,
    TooLargeError,
    UndecryptableError,
)
from device_runtime.format import canonical, manifest, schema, sketch
from device_runtime.format.batch import MISSING_CODE, Text, flag_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_canonical_json_has_one_form_and_reads_back(value):
    data = canonical.encode(value)
    assert canonical.decode(data, "x", canonical=True) == value


@given(st.binary(max_size=300))
def test_hostile_json_raises_format_errors_only(data):
    with contextlib.suppress(FormatError):
        canonical.decode(data, "x", limit=200)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"a":1,"a":2}', FormatError),
        (b"[" * 100_000, FormatError),
        (b'{"a":NaN}', FormatError),
        (b'{"b":1, "a":2}', NotCanonicalError),
        (b"[" + b" " * 400 + b"]", TooLargeError),
        (b"1" * 5000, TooLargeError),
        (b"\xff\xfe", FormatError),
    ],
)
def test_json_that_must_be_refused(data, error):
    with pytest.raises(error):
        canonical.decode(
            data, "x", limit=300 if error is TooLargeError else 1 << 20, canonical=True
        )


def test_a_durable_write_replaces_in_one_step_or_not_at_all(tmp_path):
    path = tmp_path / "f"
    write_durable(RealDisk(), path, b"one")

    class Full(RealDisk):
        def create(self, path, mode=0o600):
            real = super().create(path, mode)

            class Handle:
                def write(self, data):
                    return real.write(bytes(data)[:1]) if not self.full() else self.fail()

                def full(self):
                    return os.path.getsize(path) >= 2

                def fail(self):
                    raise OSError(errno.ENOSPC, "full")

                def sync(self):
                    real.sync()

                def truncate(self, size):
                    real.truncate(size)

                def close(self):
                    real.close()

            return Handle()

    with pytest.raises(OSError, match="full"):
        write_durable(Full(), path, b"two!")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["f"]


def test_a_short_write_is_finished_or_reported():
    class Short:
        def __init__(self):
            self.got = b""

        def write(self, data):
            self.got += bytes(data[:3])
            return min(3, len(data))

    handle = Short()
    write_all(handle, b"0123456789")
    assert handle.got == b"0123456789"


def test_reading_never_follows_a_link(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        RealDisk().read(tmp_path / "link")


def test_two_processes_cannot_hold_one_lock(tmp_path):
    with lock(tmp_path / "lock", "this home"), pytest.raises(BusyError):
        with lock(tmp_path / "lock", "this home"):
            pass
    with lock(tmp_path / "lock", "this home"):
        pass


def test_both_signature_families_must_hold():
    one, other = crypt.Identity.generate(), crypt.Identity.generate()
    good = one.sign_both(b"m")
    assert one.public.verify_both(good, b"m")
    assert not one.public.verify_both(good, b"n")
    assert not one.public.verify_both(other.sign_both(b"m"), b"m")
    mixed = good[:64] + other.sign_both(b"m")[64:]
    assert not one.public.verify_both(mixed, b"m")
    assert not one.public.verify_both(good[:64], b"m")
    assert not one.public.verify_both(b"", b"m")


def test_an_identity_survives_its_file():
    one = crypt.Identity.generate()
    assert crypt.Identity.from_bytes(one.to_bytes()).public == one.public


def test_a_wrapped_key_opens_for_its_recipients_and_nobody_else():
    (secret, public), (_, stranger) = crypt.generate_recipient(), crypt.generate_recipient()
    key = bytes(range(32))
    blob = crypt.wrap_key(key, public, b"segment")
    assert crypt.unwrap_key([("x", b""), (public.id, blob)], {public.id: secret}, b"segment") == key
    for wrapped, info in (
        ([(public.id, blob)], b"other"),
        ([(stranger.id, blob)], b"segment"),
        ([(public.id, blob[:-1])], b"segment"),
        ([], b"segment"),
    ):
        with pytest.raises(UndecryptableError):
            crypt.unwrap_key(wrapped, {public.id: secret}, info)


def test_a_sealed_chunk_opens_only_at_its_place():
    aead = crypt.Aead(b"k" * 32)
    sealed = aead.seal(7, b"data", b"aad")
    assert aead.open(7, sealed, b"aad") == b"data"
    assert aead.open(8, sealed, b"aad") is None
    assert aead.open(7, sealed, b"dab") is None
    assert aead.open(7, sealed[:-1], b"aad") is None
    assert aead.open(7, b"", b"aad") is None


@given(st.lists(st.none() | st.text(max_size=5), max_size=40))
def test_text_columns_read_back(strings):
    text = Text.of(strings)
    assert text.strings() == strings
    assert len(set(text.values)) == len(text.values)
    assert all(code == MISSING_CODE or code < len(text.values) for code in text.codes)


def test_flags_have_words():
    assert flag_text(0) == "ok"
    assert flag_text(3) == "unlike+abstained"
    assert flag_text(4) == "invalid"


def test_a_policy_reads_back_and_unknown_fields_are_refused():
    mine = policy.Policy("field", recipients=("aa",), ack_keys=(("bb", "cc"),))
    value = policy.to_json(mine)
    assert policy.from_json(value) == mine
    for wrong in (
        {**value, "surprise": 1},
        {**value, "threads": "4"},
        {**value, "strict": 1},
        {**value, "durability": "never"},
        {**value, "families": ["ed25519"]},
        {**value, "version": 99},
        [],
        None,
    ):
        with pytest.raises(FormatError):
            policy.from_json(wrong)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("manifest", manifest.from_json),
        ("policy", policy.from_json),
        ("profile", sketch.from_json),
        ("schema", schema.from_json),
        ("sketch", sketch.Sketch.from_json),
    ],
)
def test_only_what_names_another_version_is_said_to_need_an_update(name, read):
    """Who is told to update a program for a damaged file does so in vain."""
    mine = {"format": f"edgepack-{name}"}
    for wrong in (None, [], "x", {}, {"version": 1}, {"format": "edgepack-x", "version": 9}, mine):
        with pytest.raises(FormatError) as found:
            read(wrong)
        assert found.value.code == "format.invalid"
    with pytest.raises(FormatError) as found:
        read({**mine, "version": 9})
    assert found.value.code == "format.version"
    assert name in found.value.what
    assert "9" in found.value.what


def test_every_field_of_a_policy_stands_in_the_document():
    document = (Path(__file__).parents[2] / "docs" / "FORMAT-kit.md").read_text()
    for name in policy.to_json(policy.Policy("field")):
        assert f"`{name}`" in document


def test_a_policy_that_came_with_a_bundle_cannot_loosen_trust():
    mine = policy.Policy("field", operators=("ai.onnx:Add",))
    loose = policy.Policy(
        "other", clock_trusted=True, control_flow=True, operators=("evil:*",), quota_bytes=5,
        notify="rm -rf /",
    )  # fmt: skip
    merged = policy.from_bundle(mine, loose)
    assert merged.quota_bytes == 5
    assert merged.device_class == "field"
    assert not merged.clock_trusted
    assert not merged.control_flow
    assert merged.notify == ""
    assert merged.operators == ("ai.onnx:Add",)


def test_schema_and_manifest_refuse_what_they_do_not_know():
    for read in (schema.from_json, manifest.from_json):
        for value in (None, [], {}, {"format": "edgepack-schema", "version": 2}, "x", 3):
            with pytest.raises(FormatError):
                read(value)


@pytest.mark.parametrize(
    "raw", [b"[" * 40 + b'"' + b'\\"' * 500_000, b'"\\"' * 300_000 + b"[" * 40, b"[" * 1_000_000]
)
def test_hostile_json_is_refused_in_one_pass(raw):
    """Quotes that never close would take a reader that starts again at each of them hours."""
    with pytest.raises(FormatError):
        canonical.decode(raw, "x")


@pytest.mark.parametrize("text", ["[" * 32 + "]" * 32, '[{"a]":"[["}' + ',{"a":"]"}' * 40 + "]"])
def test_brackets_in_strings_do_not_count_as_depth(text):
    assert canonical.encode(canonical.decode(text.encode(), "x")) == text.encode()
