"""The commands of `vt-export`, one module each: arguments, and the work behind them."""
