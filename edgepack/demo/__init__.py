"""The whole loop as a story, told through the commands that a user types."""
