"""Reads the linear layer from a classifier's tokens to its logits."""

from pathlib import Path

import numpy as np

from service.errors import InvalidEntry
from service.schema.certificate import Certificate
from service.schema.contract import Contract
from service.schema.files import read_arrays
from service.schema.tasks import TOKENS
from service.schema.token_head import TokenHead


def read_token_head(folder: Path, contract: Contract, certificate: Certificate) -> TokenHead | None:
    """Return the layer; None if the version has none. Raises `InvalidEntry`."""
    if certificate.head is None:
        return None
    arrays = read_arrays(folder, certificate, certificate.head)
    channels = next((each.shape[-1] for each in contract.outputs if each.name == TOKENS), None)
    classes = len(contract.labels)
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != {"weight": (classes, channels), "bias": (classes,)}:
        raise InvalidEntry(f"{certificate.head} does not fit the model's tokens and classes")
    return TokenHead(arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32))
