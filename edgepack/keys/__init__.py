"""Custody: the key ring, the roots of trust, and what is signed with them."""
