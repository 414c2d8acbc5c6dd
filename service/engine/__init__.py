"""One prediction, without a transport."""
