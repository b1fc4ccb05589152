"""The command line of the base: parse, call, print; nothing is decided here."""
