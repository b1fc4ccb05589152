"""`python -m edgepack` and the command `edgepack`."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from edgepack.threads import calm

    calm()  # before anything loads a numeric library
    from edgepack.cli.app import run

    run()


if __name__ == "__main__":
    main()
