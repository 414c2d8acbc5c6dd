"""The first draft of a model card: known facts, and gaps for its author to fill."""

from collections.abc import Mapping
from typing import Any

_CARD = """# {name}

{model}, {task}, {classes} classes. Written by `vt-export export`; complete the parts in italics.

| | |
|---|---|
| Input | `images` UINT8 `{input_shape}`, raw RGB |
| Resize | `{resize}` |
| Largest batch | {max_batch_size} |
| Parity with the checkpoint | {agreement:.2%} agree, largest relative difference {difference:.1e} |

## Data and recipe

*The data, the training recipe and its cost, and how to reproduce it.*

## Accuracy

*The data set and the figures of `vt-export evaluate {name} DATA`.*

## Limits

*Inputs and uses that the model was not trained for.*

## Licence

*Of the weights, and of the data they were trained on.*
"""


def stub(contract: Mapping[str, Any], *, agreement: float, difference: float) -> str:
    """A model card in Markdown, with the parity of the fp32 graph.

    `agreement` is the share of equal answers, `difference` the largest relative difference.
    """
    dimensions = contract["dimensions"]
    return _CARD.format(
        name=contract["name"],
        model=f"{dimensions['family']} {dimensions['depth']}",
        task=contract["task"],
        classes=len(contract["labels"]),
        input_shape=contract["inputs"][0]["shape"],
        resize=contract["preprocessing"]["resize"],
        max_batch_size=contract["max_batch_size"],
        agreement=agreement,
        difference=difference,
    )
