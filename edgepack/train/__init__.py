"""Fit an estimator on rows before a cut, and measure it on rows after."""
