"""Events, and how they are reported: metrics, statistics, traces and the log."""
