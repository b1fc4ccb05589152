"""How a workspace begins: folders, keys, and a recipe that was copied or written by looking."""
