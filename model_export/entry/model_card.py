"""The first draft of a model card: what the tools know, and what a person has to add."""

from collections.abc import Mapping
from typing import Any

from model_export.comparison.parity import Parity

_CARD = """# {name}

{model}, {task}, {classes} classes. Written by `vt-export export`; complete the parts in italics.

| | |
|---|---|
| Input | `images` UINT8 `{input_shape}`, raw RGB |
| Resize | `{resize}` |
| Largest batch | {max_batch_size} |
| Parity with the checkpoint | {agreement:.2%} agree, largest relative difference {difference:.1e} |

## Data and recipe

*Which data, how trained, what it cost, how to do it again.*

## Accuracy

*Measured on which data, with `vt-export evaluate {name} DATA`.*

## Limits

*What the model was not trained for.*

## Licence

*Of the weights, and of the data they were trained on.*
"""


def stub(contract: Mapping[str, Any], parity: Parity) -> str:
    """A model card in Markdown with gaps for what only its author knows."""
    dimensions = contract["dimensions"]
    return _CARD.format(
        name=contract["name"],
        model=f"{dimensions['family']} {dimensions['depth']}",
        task=contract["task"],
        classes=len(contract["labels"]),
        input_shape=contract["inputs"][0]["shape"],
        resize=contract["preprocessing"]["resize"],
        max_batch_size=contract["max_batch_size"],
        agreement=parity.agreement,
        difference=max(parity.max_relative_difference.values()),
    )
