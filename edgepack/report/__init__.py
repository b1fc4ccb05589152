"""One HTML file that people read: offline, light and dark, printable."""
