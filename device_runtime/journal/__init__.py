"""Segments on the device: append, recover, seal, read, and what may leave the disk."""
