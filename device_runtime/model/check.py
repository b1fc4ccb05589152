"""Is this row one that the model was trained for? All issues of a row; good rows go on.

Nothing is guessed: a value that does not fit its column makes the row invalid and names the column,
the value and what was wanted. Blocks of up to 32 rows take the path of arrays, larger ones that of
numpy; both give the same bytes (a property test says so).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from device_runtime.format.batch import Batch
from device_runtime.format.schema import Schema
from device_runtime.model.rows import RawBlock


@dataclass(frozen=True, slots=True)
class Invalid:
    """One row that the model never sees.

    Attributes:
        position: Its place in the block; the row number is `first_row + position`.
        issues: Everything that is wrong with it, one line each: `temp: 'warm' is not a number`.
        raw: Its values as they came, given columns only, each shortened to 200 characters.
    """

    position: int
    issues: tuple[str, ...]
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checked:
    """A block after the check.

    Attributes:
        whole: All n rows, typed; in an invalid row every value that did not fit is missing (NaN,
            None, `MISSING_TIME`, or 0 for integers). For the journal: one block, one record a row.
        batch: The good rows only, for the model. The very same object as `whole` if all are good.
        good: Positions of the good rows within the block, ascending.
        invalid: The others, by position.
        unseen: uint8 per row of `whole` (buffer): 1 where a category is one that training never
            saw; None if there is no such row.
    """

    whole: Batch
    batch: Batch
    good: Sequence[int]
    invalid: tuple[Invalid, ...]
    unseen: Any


def check(block: RawBlock, schema: Schema) -> Checked:
    """Check every row of a block against the schema; never raises because of a value.

    Raises:
        InputError: A column has another number of values than the block has rows.
    """
    raise NotImplementedError
