"""Labels and bucket bounds that several subjects share."""

VERSION = ("model", "version")

# OpenTelemetry's bounds for HTTP, and finer ones below 50 ms for fast models.
SECONDS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.05, 0.075),
    *(0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
