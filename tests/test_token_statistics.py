"""The service computes the token statistics that the certificate's reference was computed with."""

import numpy as np
import pytest

from model_export.comparison import token_statistics as export
from service.images import attention as served


def attention(chance: np.random.Generator, *shape: int) -> np.ndarray:
    values = chance.gamma(0.3, size=shape).astype(np.float32)
    return values / values.sum(axis=(-2, -1), keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_both_packages_compute_the_same_statistics(seed: int) -> None:
    chance = np.random.default_rng(seed)
    outputs = {
        "tokens": chance.normal(size=(2, 6, 32)).astype(np.float32),
        "token_attention": attention(chance, 2, 3, 6, 7, 5),
        "token_attention_stride_4": attention(chance, 2, 6, 16, 12),
    }
    measured = export.token_statistics(outputs)
    for image in range(2):
        found = served.token_statistics({name: each[image] for name, each in outputs.items()})
        assert found.keys() == measured.keys()
        for name, value in found.items():
            assert value == pytest.approx(measured[name][image], abs=1e-5)
