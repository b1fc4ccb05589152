"""Errors of the base station; the tree and its rules stand in `device_runtime.errors`."""

from __future__ import annotations

from device_runtime.errors import EdgepackError


class RecipeError(EdgepackError):
    """A recipe, its columns or its data are not what they should be."""

    code = "recipe.invalid"
    exit = 70
    advice = "correct bundle.toml and repeat the command"


class DataError(RecipeError):
    """The data do not fit the recipe: columns, dtypes, rows, classes."""

    code = "recipe.data"
    advice = "correct the data or bundle.toml and repeat the command"


class LeakError(RecipeError):
    """A forbidden column is used as an input: it knows the answer."""

    code = "recipe.leak"
    advice = "take the column out of `inputs`"


class WorkspaceError(RecipeError):
    """There is no workspace here, or one lies inside another."""

    code = "recipe.workspace"
    advice = "make one with: edgepack init DIR"


class ConversionError(EdgepackError):
    """The model cannot be converted to ONNX, or not without being silently wrong."""

    code = "convert.refused"
    exit = 71
    advice = "see docs/MODELS.md for what converts"


class ParityError(EdgepackError):
    """The ONNX model answers differently from the trained one.

    Attributes:
        report: The whole comparison (`convert.verdict.Report`), where there is one.
    """

    code = "convert.parity"
    exit = 72
    advice = "use another estimator (docs/MODELS.md)"

    def __init__(self, what: str, *, why: str = "", next: str = "", report: object = None) -> None:
        super().__init__(what, why=why, next=next)
        self.report = report


class StoreError(EdgepackError):
    """The archive, registry or table is damaged or was changed by somebody else."""

    code = "store.failed"
    exit = 73
    advice = "run: edgepack store check; the table is a view, store rebuild makes it again"


class EvidenceError(EdgepackError):
    """Too little evidence for a new model, or the challenger is not better."""

    code = "learn.evidence"
    exit = 74
    advice = "collect more labels, then repeat the command"


class DriftError(EdgepackError):
    """Drift is above the limit that was asked for."""

    code = "learn.drift"
    exit = 75
    advice = "look at the columns named above; retrain when labels are home"


class KeyringError(EdgepackError):
    """A key is missing, or the passphrase is wrong."""

    code = "keys.failed"
    exit = 76
    advice = "check the passphrase (EDGEPACK_PASSPHRASE) and that keys/ is complete"


class ClockError(KeyringError):
    """The time of a signature does not fit the clock, or comes before what was signed last."""

    code = "keys.clock"
    advice = "set the clock of this machine; if it is right: repeat with --force-time"


class DeviceUnknownError(EdgepackError):
    """No such device is enrolled here."""

    code = "fleet.unknown"
    exit = 70
    advice = "see: edgepack device list"
