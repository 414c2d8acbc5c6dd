"""Types of files and messages; no behaviour."""
