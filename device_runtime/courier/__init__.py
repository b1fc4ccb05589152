"""What goes onto and comes off a stick."""
