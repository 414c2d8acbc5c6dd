"""The HTTP server: sockets, connections, TLS."""
