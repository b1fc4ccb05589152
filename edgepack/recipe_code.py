"""recipe.py: how it is run, and what is said when it fails."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from edgepack.errors import DataError, RecipeError
from edgepack.recipe_fields import BOOST
from edgepack.threads import calm


def run(path: Path) -> ModuleType:
    """Run recipe.py once; a change of the file runs it again.

    Raises:
        RecipeError: It does not run; its own line is named.
    """
    stat = path.stat()
    name = f"edgepack_recipe_{abs(hash((str(path), stat.st_mtime_ns, stat.st_size))):x}"
    if name in sys.modules:
        return sys.modules[name]
    calm()  # it will import numeric libraries
    loader = _Loader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        sys.modules[name] = module  # what it defines must be importable while it is fitted
        loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RecipeError(
            f"{path} does not run{_line(error, path)}: {type(error).__name__}: {_one_line(error)}",
            next=_remedy(error),
        ) from error
    return module


def failed(name: str, path: Path, error: Exception) -> DataError | RecipeError:
    """Return what is said of a function of recipe.py that raised."""
    if name == "rows" and _is_of_data(error):
        return _unreadable(error, path)
    return RecipeError(
        f"{name}() in {path} failed{_line(error, path)}: "
        f"{type(error).__name__}: {_one_line(error)}",
        next=_remedy(error),
    )


class _Loader(importlib.machinery.SourceFileLoader):
    """Leaves no `__pycache__` in the recipe's folder."""

    def set_data(self, *_path_and_data: Any, **_mode: Any) -> None:
        """Write nothing."""


def _line(error: BaseException, path: Path) -> str:
    """Return ", line N" for the last frame of the traceback that lies in `path`."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    number, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            number = trace.tb_lineno
        trace = trace.tb_next
    return f", line {number}" if number else ""


def _remedy(error: BaseException) -> str:
    """Return what to do: install what is missing, where we know what brings it."""
    if isinstance(error, ModuleNotFoundError) and error.name in ("xgboost", "lightgbm"):
        return BOOST
    return "correct recipe.py and repeat the command"


def _is_of_data(error: BaseException) -> bool:
    """Whether a file was missing or damaged: the data's fault, not that of the code reading it."""
    if isinstance(error, OSError):
        return True
    arrow = sys.modules.get("pyarrow")  # what it raised, it was loaded for
    return arrow is not None and isinstance(error, arrow.ArrowInvalid)


def _unreadable(error: BaseException, code: Path) -> DataError:
    """Name the file that rows() could not read: by the error, or else what lies in data/."""
    file, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
    reason = reason or _one_line(error)
    if isinstance(error, FileNotFoundError):
        file, reason = file or reason, "there is no such file"
    if file is None and "/" not in reason:
        found = sorted(str(path) for path in (code.parent / "data").glob("*") if path.is_file())
        file = " or ".join(found[:3])
    return DataError(
        f"rows() in {code} cannot read {file or 'its data'}: {reason}",
        next="put the file back as it was and repeat the command; if it is whole, correct rows()",
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
