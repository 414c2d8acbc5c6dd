"""The linear layer of a classifier, from the mean of its tokens to its logits."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenHead:
    """`logits = weight @ mean(tokens) + bias`: FP32 [classes, channels] and [classes]."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
