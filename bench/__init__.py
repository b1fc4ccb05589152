"""Measured ratios against the plain tools: `make bench`."""
