"""Front ends: processes that do HTTP, and make their predictions in the process of the engine."""
