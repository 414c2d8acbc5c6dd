"""The commands of `vt-export`, one module each."""
