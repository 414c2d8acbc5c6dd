"""`vt-export describe`: the costs of a model, as a table or JSON."""

import argparse
import json
from collections.abc import Sequence

from model_export.commands.arguments import (
    add_dimensions,
    dimensions_from,
    input_size_from,
)
from model_export.models.costs import Description, Layer, describe

SUMMARY = "Print parameters and MACs layer by layer."
_HEADER = ("layer", "kind", "output", "parameters", "MACs")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    command.add_argument("model", metavar="MODEL", help="a registered model, such as vt_resnet18")
    add_dimensions(command)
    command.add_argument(
        "--classes", type=int, help="number of classes (default: 1000; segmentation: 54)"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """Execute the command."""
    dimensions = dimensions_from(options, options.classes)
    description = describe(dimensions, input_size_from(options))
    print(json.dumps(description.as_dict(), indent=2) if options.json else table(description))


def table(description: Description) -> str:
    """The costs as text: one line per layer, and the total."""
    rows = [_HEADER, *(_row(layer) for layer in description.layers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join([*(_line(row, widths) for row in rows), "", _total(description)])


def _row(layer: Layer) -> tuple[str, ...]:
    return (
        "  " * layer.name.count(".") + layer.name,
        layer.kind,
        layer.output,
        f"{layer.parameters:,}",
        f"{layer.macs / 1e6:,.2f} M",
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """Texts to the left, numbers to the right."""
    texts = [text.ljust(width) for text, width in zip(row[:3], widths[:3], strict=True)]
    numbers = [text.rjust(width) for text, width in zip(row[3:], widths[3:], strict=True)]
    return "  ".join([*texts, *numbers]).rstrip()


def _total(description: Description) -> str:
    height, width = description.input_size
    total = (
        f"{description.dimensions.name} at {height}x{width}: "
        f"{description.parameters:,} parameters, "
        f"{description.macs / 1e6:,.2f} M MACs"
    )
    if description.module_macs is not None:
        total += f", of these {description.module_macs / 1e6:,.2f} M in the pyramid"
    return total
