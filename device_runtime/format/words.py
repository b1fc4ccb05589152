"""Fingerprints that two people can compare over a telephone: 8 words stand for 88 bits.

A word is consonant, vowel, consonant, vowel: 16 x 4 x 16 x 2 = 2048 of them, so a word stands for
11 bits. The list is made, not copied; every word is pronounced as it is written, and two words
never differ by case, length or an accent.
"""

from __future__ import annotations

import re

COUNT = 8
_FIRST = "bdfghjklmnprstvz"
_VOWELS = "aiou"
_LAST = "ao"

WORDS: tuple[str, ...] = tuple(
    first + vowel + second + last
    for first in _FIRST
    for vowel in _VOWELS
    for second in _FIRST
    for last in _LAST
)


def words(digest: bytes) -> str:
    """Return the first 88 bits of a digest as 8 words with one space between them.

    Args:
        digest: At least 11 bytes, such as a SHA-256.
    """
    number = int.from_bytes(digest[:11], "big")
    return " ".join(WORDS[number >> shift & 2047] for shift in range(11 * (COUNT - 1), -1, -11))


def same(left: str, right: str) -> bool:
    """Whether two fingerprints say the same, however a person typed them.

    Case, punctuation and white space do not count; both must have all 8 words.
    """
    first, second = _split(left), _split(right)
    return len(first) == COUNT and first == second


def _split(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
