"""What came home: the archive of sealed segments, and the table that is a view of it."""
