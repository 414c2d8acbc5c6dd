"""Types of tensors, for modules that do not run graphs themselves."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Outputs = Mapping[str, Array]
"""The outputs of one image, by name."""
