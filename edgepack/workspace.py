"""A workspace: one folder at the base with recipes, candidates, bundles, keys and what came home.

`edgepack.toml` marks its root and says, in `[class.NAME]`, what each kind of device accepts.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from device_runtime.disk import Disk, RealDisk, lock, write_durable
from device_runtime.errors import UsageError
from device_runtime.policy import Policy
from edgepack.classes import DeviceClass, read_classes
from edgepack.errors import KeyringError, WorkspaceError

FILE = "edgepack.toml"
FOLDERS: tuple[str, ...] = (
    "bundles",
    "candidates",
    "out",
    "kits",
    "archive",
    "held",
    "quarantine",
    "table",
    "proposals",
    "labels",
    "metadata",
)
ENVIRONMENT = "EDGEPACK_PASSPHRASE"
NEW_ENVIRONMENT = "EDGEPACK_NEW_PASSPHRASE"

TEMPLATE = """\
# The root of an edgepack workspace. `edgepack --help` lists what can be done here.
format = 1

# A class is a kind of device. What stands here becomes the signed policy.json of its devices;
# every field of docs/FORMAT-kit.md may be given, sizes as bytes or as "512 MiB".
[class.field]
arch = "{arch}"                 # machine of the devices: for `device kit --wheels`
python = "3.11"
onnxruntime = "1.20"            # the oldest on these devices: models are exported for it
clock_trusted = false           # nobody sets their clocks
durability = "group"            # each | group | os
quota_bytes = "2 GiB"           # room for the journal
"""


@dataclass(frozen=True, slots=True)
class Workspace:
    """An existing workspace.

    Attributes:
        root: Its absolute folder.
        classes: The device classes by name; at least one.
        disk: Where everything is written through.
    """

    root: Path
    classes: Mapping[str, DeviceClass]
    disk: Disk = field(default_factory=RealDisk, repr=False, compare=False)

    @classmethod
    def find(cls, start: Path | str | None = None, *, disk: Disk | None = None) -> Workspace:
        """Open the workspace that `start` (default: the current folder) lies in.

        Raises:
            WorkspaceError: `start` is no folder, there is none from there upwards, or its
                edgepack.toml is not valid.
        """
        begin = Path(start or ".").resolve()
        if not begin.is_dir():  # else a typing error would work on the workspace around it
            raise WorkspaceError(f"there is no folder {begin}")
        for folder in (begin, *begin.parents):
            if (folder / FILE).is_file():
                return cls(folder, read_classes(folder / FILE), disk or RealDisk())
        raise WorkspaceError(f"{begin} is not inside a workspace")

    @classmethod
    def create(cls, folder: Path | str, *, disk: Disk | None = None) -> Workspace:
        """Make the folders and edgepack.toml; a folder that has other files is refused.

        Raises:
            WorkspaceError: `folder` is not empty, or lies in another workspace.
        """
        disk = disk or RealDisk()
        root = new_root(Path(folder))
        for name in FOLDERS:
            disk.mkdir(root / name)
        text = TEMPLATE.format(arch=os.uname().machine)
        write_durable(disk, root / FILE, text.encode(), 0o644)
        return cls(root, read_classes(root / FILE), disk)

    # --- paths -----------------------------------------------------------------------------

    @property
    def keys(self) -> Path:
        """The key ring."""
        return self.root / "keys"

    @property
    def recipes(self) -> Path:
        """The folder of recipes, `bundles/`."""
        return self.root / "bundles"

    @property
    def out(self) -> Path:
        """Unsigned and signed bundles."""
        return self.root / "out"

    @property
    def kits(self) -> Path:
        """Kits of new devices."""
        return self.root / "kits"

    @property
    def archive(self) -> Path:
        """Sealed segments as they came home: what was acknowledged."""
        return self.root / "archive"

    @property
    def held(self) -> Path:
        """Segments that cannot be imported yet."""
        return self.root / "held"

    @property
    def quarantine(self) -> Path:
        """Bytes that are not valid."""
        return self.root / "quarantine"

    @property
    def registry(self) -> Path:
        """The registry's SQLite file."""
        return self.root / "registry.sqlite"

    @property
    def labels(self) -> Path:
        """Labels given at the base."""
        return self.root / "labels"

    @property
    def metadata(self) -> Path:
        """TUF roots and the metadata of each bundle name."""
        return self.root / "metadata"

    def candidates(self, name: str) -> Path:
        """Return the folder of the candidates of one bundle name."""
        return self.root / "candidates" / name

    def table(self, name: str) -> Path:
        """Return the Delta table of one bundle name."""
        return self.root / "table" / name

    def proposals(self, name: str) -> Path:
        """Return the folder of retraining proposals of one bundle name."""
        return self.root / "proposals" / name

    # --- recipes and classes ------------------------------------------------------------------

    def recipe_names(self) -> list[str]:
        """Return the names of the recipes in `bundles/`, sorted."""
        return [
            n for n in self.disk.list(self.recipes) if (self.recipes / n / "bundle.toml").is_file()
        ]

    def recipe_folder(self, name: str | None = None) -> Path:
        """Return the folder of a recipe; without a name, the only one.

        Raises:
            UsageError: No such recipe, or several and none was named.
        """
        names = self.recipe_names()
        if name is None and len(names) == 1:
            return self.recipes / names[0]
        there = ", ".join(names) or "none"
        if name is None:
            raise UsageError(f"which recipe? this workspace has: {there}", next="give its NAME")
        if name not in names:
            raise UsageError(f"there is no recipe {name} here", next=f"the recipes here: {there}")
        return self.recipes / name

    def device_class(self, name: str) -> DeviceClass:
        """Return a device class.

        Raises:
            WorkspaceError: edgepack.toml has no such class.
        """
        if name not in self.classes:
            there = ", ".join(sorted(self.classes))
            raise WorkspaceError(
                f"edgepack.toml has no [class.{name}]", next=f"add it, or use one of: {there}"
            )
        return self.classes[name]

    def policy(self, device_class: str) -> Policy:
        """Return the policy of a class, without recipients and ack keys (the key ring has them)."""
        return self.device_class(device_class).policy

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace while the block changes it.

        Raises:
            BusyError: Another command is changing it.
        """
        with lock(self.root / ".lock", f"the workspace {self.root}"):
            yield

    def passphrase(self, *, confirm: bool = False) -> str:
        """Return the passphrase of the key ring; see `ask_passphrase`."""
        return ask_passphrase(f"Passphrase of {self.root.name}: ", confirm=confirm)


def ask_passphrase(prompt: str, *, confirm: bool = False, variable: str = ENVIRONMENT) -> str:
    """Return the passphrase from the environment, else ask for it on the terminal.

    Args:
        prompt: What the person reads.
        confirm: Ask twice: for a new passphrase.
        variable: Where it stands in the environment.

    Raises:
        KeyringError: Neither is there, it is empty, or the two differ.
    """
    given = os.environ.get(variable)
    if given is None:
        if not sys.stdin.isatty():
            raise KeyringError(
                "no passphrase for the keys",
                next=f"set {variable}, or run the command in a terminal",
            )
        try:
            given = getpass.getpass(prompt)
            if confirm and getpass.getpass("Once more: ") != given:
                raise KeyringError("the two passphrases differ", next="repeat the command")
        except EOFError:
            raise KeyringError("no passphrase was typed", next="repeat the command") from None
    if not given:
        raise KeyringError("the passphrase is empty", next=f"give one, or set {variable}")
    return given


def new_root(folder: Path) -> Path:
    """Return where a new workspace stands, without links and `..`.

    Raises:
        WorkspaceError: It is a file, is not empty, or lies in another workspace.
    """
    root = folder.resolve()
    if (root / FILE).exists():
        raise WorkspaceError(f"{root} is a workspace already", next="choose another folder")
    for parent in root.parents:
        if (parent / FILE).is_file():
            raise WorkspaceError(
                f"{root} would lie inside the workspace {parent}", next="choose a folder outside"
            )
    if root.exists() and not root.is_dir():
        raise WorkspaceError(f"{root} is a file", next="choose another folder")
    if root.is_dir() and any(root.iterdir()):
        raise WorkspaceError(f"{root} is not empty", next="choose an empty or new folder")
    return root


@contextmanager
def beside(root: Path, disk: Disk) -> Iterator[Path]:
    """Yield a folder beside a new root that takes its place at the end; a failure leaves nothing.

    Args:
        root: What `new_root` returned.
        disk: Where it lies.
    """
    part = root.with_name(f".{root.name}.part")
    disk.mkdir(root.parent)
    disk.rmtree(part)
    try:
        yield part
        if root.exists():
            os.rmdir(root)  # empty: `new_root` looked
        disk.rename(part, root)
        disk.fsync_dir(root.parent)
    except BaseException:
        disk.rmtree(part)
        raise


def check_out(file: Path) -> None:
    """Refuse a name under which no file can be written, before the work for it is done.

    Raises:
        UsageError: It is a folder, or its folder is not there.
    """
    if file.is_dir() or not file.parent.is_dir():
        raise UsageError(f"{file} cannot be a file", next="name a file in a folder that is there")
