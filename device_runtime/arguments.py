"""Command lines: what a command takes, how it is read, how its help looks.

`argparse` imports `gettext` and `locale` and compiles patterns: 6 ms of every start, which is more
than a row takes to be answered. What is needed of it stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from device_runtime.errors import UsageError
from device_runtime.record import NamedTuple


class Argument(NamedTuple):
    """One thing that a command takes.

    Attributes:
        name: `--out` for an option, `FILE` for a word; what is read stands as `out`, `file`.
        help: One line.
        takes: What an option's value is called; empty for a switch.
        default: Where it is not given; an argument without one must be given.
        kind: Text → value; raises ValueError.
        choices: All that is accepted; empty for anything.
    """

    name: str
    help: str = ""
    takes: str = ""
    default: Any = None
    needed: bool = False
    kind: Callable[[str], Any] = str
    choices: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """Name of the value."""
        return self.name.lstrip("-").lower().replace("-", "_")

    @property
    def is_option(self) -> bool:
        """Whether it begins with dashes."""
        return self.name.startswith("-")

    @property
    def shown(self) -> str:
        """As it is typed."""
        takes = f"{{{','.join(self.choices)}}}" if self.choices else self.takes
        return f"{self.name} {takes}" if takes else self.name


class Command(NamedTuple):
    """One command.

    Attributes:
        run: What it does with what `read` returned.
        help: One line.
        takes: Its arguments, words in order.
    """

    run: Callable[[SimpleNamespace], Any]
    help: str
    takes: tuple[Argument, ...] = ()


def read(prog: str, command: Command, given: Sequence[str]) -> SimpleNamespace | None:
    """Read a command line; None where help was asked for.

    Raises:
        UsageError: It is not what the command takes.
    """
    options = {item.name: item for item in command.takes if item.is_option}
    words = [item for item in command.takes if not item.is_option]
    found: dict[str, Any] = {item.field: item.default for item in command.takes}
    seen: set[str] = set()
    rest = list(given)
    plain = False  # after `--` everything is a word

    def keep(item: Argument, text: str) -> None:
        seen.add(item.name)
        found[item.field] = _value(prog, item, text)

    while rest:
        text = rest.pop(0)
        if text == "--" and not plain:
            plain = True
        elif plain or not text.startswith("-") or text == "-" or _is_number(text):
            if not words:
                raise _wrong(prog, f"unexpected: {text}")
            keep(words.pop(0), text)
        elif text in {"-h", "--help"}:
            return None
        else:
            name, equals, value = text.partition("=")
            item = options.get(name)
            if item is None:
                raise _wrong(prog, f"there is no option {name}")
            if not item.takes:
                if equals:
                    raise _wrong(prog, f"{name} takes no value")
                found[item.field] = True
            elif not equals and not rest:
                raise _wrong(prog, f"{name} needs a value: {item.takes}")
            else:
                keep(item, value if equals else rest.pop(0))
    missing = [item.name for item in command.takes if item.needed and item.name not in seen]
    if missing:
        raise _wrong(prog, f"missing: {' '.join(missing)}")
    return SimpleNamespace(**found)


def _value(prog: str, item: Argument, text: str) -> Any:
    if item.choices and text not in item.choices:
        raise _wrong(prog, f"{item.name} is one of {', '.join(item.choices)}, not {text}")
    try:
        return item.kind(text)
    except ValueError:
        raise _wrong(prog, f"{item.name} takes a whole number, not {text}") from None


def _is_number(text: str) -> bool:
    return text[1:].replace(".", "", 1).isdecimal()


def _wrong(prog: str, what: str) -> UsageError:
    return UsageError(what, next=f"see: {prog} --help")


def help_of(prog: str, command: Command) -> str:
    """Return the help of one command."""
    words = [i.name if i.needed else f"[{i.name}]" for i in command.takes if not i.is_option]
    options = [item for item in command.takes if item.is_option]
    lines = [f"usage: {' '.join((prog, *words))} [options]", "", command.help, ""]
    lines += [f"  {item.shown:<24}{item.help}" for item in command.takes if not item.is_option]
    lines += [f"  {item.shown:<24}{item.help}" for item in options]
    return "\n".join((*lines, f"  {'-h, --help':<24}this text"))


def help_of_all(prog: str, about: str, commands: Mapping[str, Command]) -> str:
    """Return the help of the program."""
    listing = "\n".join(f"  {name:<10}{item.help}" for name, item in commands.items())
    usage = f"usage: {prog} COMMAND [options]"
    return f"{usage}\n\n{about}\n\n{listing}\n\neach has its own --help; --version"
