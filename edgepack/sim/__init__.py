"""A laboratory: devices, sticks and a base of the real code on disks that fail."""
