"""Which bundle runs: install, self-test, trial, fallback."""
