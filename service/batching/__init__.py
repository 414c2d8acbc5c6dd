"""Which images wait and which run next."""
