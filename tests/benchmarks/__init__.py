"""What is measured and not asserted; run by hand, on a machine that does nothing else."""
