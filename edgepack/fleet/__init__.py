"""Devices of this base: kits, enrolment, overview."""
