"""The HTTP surfaces, one file each: requests in, responses out."""
