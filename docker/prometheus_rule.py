"""Print `prometheus/rules.yml` as a PrometheusRule of the Prometheus operator: `make manifests`."""

import textwrap
from pathlib import Path

HEAD = """\
# Generated from rules.yml by `make manifests`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: vt-serve
spec:
"""


def main() -> None:
    """Print the rules, with their comments, under `spec`."""
    rules = (Path(__file__).parent / "prometheus" / "rules.yml").read_text()
    print(HEAD + textwrap.indent(rules, "  "), end="")  # noqa: T201


if __name__ == "__main__":
    main()
