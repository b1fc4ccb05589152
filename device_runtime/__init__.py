"""The part of edgepack that runs on an air-gapped device: verify, run, journal.

It owns every format (bundle, journal, stick); the base station imports the readers from here.
"""
