"""The base's side of a stick: import, acknowledge, hand out bundles."""
