"""From a candidate to the bytes of an unsigned bundle, and back to what a person reads."""
