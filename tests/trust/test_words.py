"""Fingerprints in words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from device_runtime.format.words import COUNT, WORDS, same, words


def test_there_are_2048_different_words_of_four_letters() -> None:
    assert len(set(WORDS)) == 2048
    assert {len(word) for word in WORDS} == {4}


@given(st.binary(min_size=11, max_size=32), st.binary(min_size=11, max_size=32))
def test_words_stand_for_exactly_the_first_88_bits(left: bytes, right: bytes) -> None:
    assert same(words(left), words(right)) == (left[:11] == right[:11])
    assert len(words(left).split(" ")) == COUNT


def test_a_person_may_type_them_in_any_way() -> None:
    text = words(bytes(range(32)))
    assert same(text, "  " + text.upper().replace(" ", "-") + "\n")
    assert not same(text, text.rsplit(" ", 1)[0])
    assert not same("", "")
