"""The command `edgepack`: one typer application, its commands registered by the other modules."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

import typer
from typer.main import get_command

from device_runtime.errors import UsageError
from edgepack.cli.screen import Screen, report_failure

app = typer.Typer(
    name="edgepack",
    help="Pack a batch model into one signed file, run it offline, bring its journal home.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
    json: bool = typer.Option(False, "--json", help="With --version: one JSON object."),
) -> None:
    """Pack a batch model into one signed file, run it offline, bring its journal home."""
    if version:
        from device_runtime._version import __version__

        screen = Screen(json)
        screen.line(__version__)
        screen.done({"version": __version__})
    elif json:
        raise UsageError(
            "--json stands before the command", next="put it behind: edgepack COMMAND … --json"
        )
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@app.command()
def demo(
    directory: str = typer.Option(
        "", "--dir", help="Where to play it; a temporary folder if none."
    ),
    json: bool = typer.Option(False, "--json", help="Print one JSON object and nothing else."),
) -> None:
    """Play the whole loop on real flights. Devices run without a network."""
    from edgepack.demo import story

    raise typer.Exit(story.play(directory, as_json=json))


for _name in ("make", "keys", "device", "field", "learn"):
    if find_spec(f"edgepack.cli.{_name}"):
        import_module(f"edgepack.cli.{_name}").register(app)


def run() -> int:
    """Run the application; every failure ends in one line and an exit code, never a traceback."""
    words = sys.argv[1:]
    try:
        command = get_command(app)  # not `app()`, which has words of its own for what goes wrong
        with command.make_context("edgepack", list(words)) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except BaseException as error:  # noqa: BLE001
        return report_failure(error, as_json="--json" in words)
    return 0
