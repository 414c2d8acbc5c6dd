"""What is reported, and to whom."""
