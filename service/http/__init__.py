"""The HTTP interface: server, middleware and routes."""
