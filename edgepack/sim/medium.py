"""What a simulated disk is made of: files and folders, each as processes see it and as it is kept.

A power cut leaves, of everything that was not synced, whatever chance decides (`File.cut`,
`Change`). A copy of a disk shares nothing with it that can change (`copy_tree`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

SECTOR = 512


class PowerCut(BaseException):
    """The machine went dark here. Not an `Exception`: nothing may catch it and go on."""


@dataclass(eq=False, slots=True)
class File:
    """One file.

    Attributes:
        data: What processes see.
        medium: What the medium holds.
        clean: Bytes from the start that are the same on both.
        doomed: A sync failed: the kernel forgot the dirty pages and will not write them again.
    """

    data: bytearray = field(default_factory=bytearray)
    medium: bytes = b""
    clean: int = 0
    doomed: int = -1

    def sync(self) -> None:
        """Write out what is dirty; what a failed sync forgot stays zeros on the medium."""
        if self.doomed < 0 and self.clean == len(self.data) == len(self.medium):
            return
        content = bytes(self.data)
        if self.doomed >= 0:
            lost = range(self.doomed, min(self.clean, len(content)))
            content = (
                content[: lost.start] + bytes(len(lost)) + content[max(lost.stop, lost.start) :]
            )
        self.medium, self.clean = content, len(content)

    def cut(self, rng: random.Random) -> None:
        """Leave what a power cut leaves."""
        base = self.medium[: self.clean]
        dirty = bytes(self.data[self.clean :])
        choice = rng.random()
        if choice < 0.2:
            tail = self.medium[self.clean :]
        elif choice < 0.8:
            kept = rng.randint(0, len(dirty))
            tail = dirty[:kept] + self.medium[self.clean + kept :]
        else:  # sectors in any order: the length arrived, some of the content did not
            tail = b"".join(
                part if rng.random() < 0.5 else bytes(len(part))
                for part in (dirty[i : i + SECTOR] for i in range(0, len(dirty), SECTOR))
            )
        self.data = bytearray(base + tail)
        self.medium, self.clean, self.doomed = bytes(self.data), len(self.data), -1


@dataclass(eq=False, slots=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(eq=False, slots=True)
class Folder:
    """One folder: what processes see, and what the medium holds."""

    seen: dict[str, Node] = field(default_factory=dict)
    kept: dict[str, Node] = field(default_factory=dict)


Node = File | Link | Folder
Steps = Sequence[tuple[Folder, str, Node | None]]


@dataclass(slots=True)
class Change:
    """One atomic change of folders: (folder, name, what stands there then)."""

    steps: Steps

    def apply(self) -> None:
        """Let the medium have it."""
        for folder, name, node in self.steps:
            if node is None:
                folder.kept.pop(name, None)
            else:
                folder.kept[name] = node


@dataclass(slots=True)
class Fault:
    """Calls of some kinds that will fail: after `skip` of them, the next `times`."""

    skip: int
    times: int
    code: int
    kinds: frozenset[str]

    def hits(self, what: str) -> bool:
        """Whether this call of one of the kinds fails."""
        if self.kinds and what not in self.kinds:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return self.times >= 0


def copy_tree(root: Folder, pending: Sequence[Change]) -> tuple[Folder, list[Change]]:
    """Return a copy of a tree and of the changes that its medium has not seen yet."""
    done: dict[int, Node] = {}

    def node(old: Node) -> Node:
        new = done.get(id(old))
        if new is None:
            new = done[id(old)] = _copy(old)
            if isinstance(old, Folder) and isinstance(new, Folder):
                new.seen = {name: node(child) for name, child in old.seen.items()}
                new.kept = {name: node(child) for name, child in old.kept.items()}
        return new

    def folder(old: Folder) -> Folder:
        new = node(old)
        assert isinstance(new, Folder)
        return new

    changes = [
        Change([(folder(where), name, what and node(what)) for where, name, what in change.steps])
        for change in pending
    ]
    return folder(root), changes


def _copy(old: Node) -> Node:
    if isinstance(old, File):
        return File(bytearray(old.data), old.medium, old.clean, old.doomed)
    return Link(old.target) if isinstance(old, Link) else Folder()


def settle(folder: Folder, rng: random.Random) -> None:
    """Let processes see what a power cut left."""
    folder.seen = dict(folder.kept)
    for node in folder.seen.values():
        if isinstance(node, Folder):
            settle(node, rng)
        elif isinstance(node, File):
            node.cut(rng)


def flush(folder: Folder) -> None:
    """Let the medium have everything below a folder."""
    folder.kept = dict(folder.seen)
    for node in folder.kept.values():
        if isinstance(node, Folder):
            flush(node)
        elif isinstance(node, File):
            node.sync()


def bytes_in(folder: Folder) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for node in folder.seen.values():
        if isinstance(node, File):
            total += len(node.data)
        elif isinstance(node, Folder):
            total += bytes_in(node)
    return total
