"""The command line that the TUF conformance suite drives, on the device's verification core.

    client.py --metadata-dir D init ROOT
    client.py --metadata-url U --metadata-dir D refresh
    client.py --metadata-url U --metadata-dir D --target-name N [--target-name N …] \\
        --target-base-url B --target-dir T download

Exit 0 or 1. Metadata lie in D under unversioned names. The suite sets the clock (`faketime`), so in
this mode the machine's clock counts and there is no floor. Contract: the README of
https://github.com/theupdateframework/tuf-conformance.
"""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, UpdaterConfig

from device_runtime.trust.refresh import MemoryUpdater

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the suite is local


class HttpFetcher(FetcherInterface):
    """Fetch over HTTP with the standard library."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            response = _OPENER.open(url, timeout=10)
        except urllib.error.HTTPError as error:
            raise DownloadHTTPError(str(error), error.code) from None
        return self._pieces(response)

    @staticmethod
    def _pieces(response: object) -> Iterator[bytes]:
        with response:  # type: ignore[attr-defined]
            while piece := response.read(65536):  # type: ignore[attr-defined]
                yield piece


def main(arguments: list[str] | None = None) -> int:
    """Run one command; print what went wrong to stderr."""
    args = parse(arguments)
    folder = Path(args.metadata_dir)
    if args.command == "init":
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "root.json").write_bytes(Path(args.root).read_bytes())
        return 0
    # A role may be called "../x": names are quoted, as python-tuf quotes them.
    files = {unquote(path.stem): path for path in folder.glob("*.json")}
    state = {role: path.read_bytes() for role, path in files.items()}
    try:
        updater = MemoryUpdater(
            state["root"],
            state,
            HttpFetcher(),
            None,
            url=args.metadata_url,
            config=UpdaterConfig(),
        )
        try:
            updater.refresh()
            if args.command == "download":
                download(updater, args)
        finally:
            for role, data in updater.state.items():
                (folder / f"{quote(role, '')}.json").write_bytes(data)
    except (RepositoryError, DownloadError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def download(updater: MemoryUpdater, args: argparse.Namespace) -> None:
    """Download the targets that are not there already, all through one updater."""
    updater.target_dir = args.target_dir
    for name in args.target_name:
        found = updater.get_targetinfo(name)
        if found is None:
            raise RepositoryError(f"there is no target {name}")
        if updater.find_cached_target(found) is None:
            updater.download_target(found, target_base_url=args.target_base_url)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the suite's arguments."""
    parser = argparse.ArgumentParser()
    for name in ("metadata-url", "metadata-dir", "target-base-url", "target-dir"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--target-name", action="append", default=[])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root")
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
