"""The layer behind a classifier's tokens is read, and must fit them."""

from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidEntry
from service.repository.token_head import read_token_head
from service.schema.files import read_certificate, read_contract
from service.schema.token_head import TokenHead
from tests.service.token_models import BIAS, WEIGHT, write_token_classifier


def head_of(folder: Path) -> TokenHead | None:
    contract = read_contract(folder)
    return read_token_head(folder, contract, read_certificate(folder, contract, "1"))


def test_a_head_is_read(tmp_path: Path) -> None:
    head = head_of(write_token_classifier(tmp_path))
    assert head is not None
    np.testing.assert_array_equal(head.weight, WEIGHT)
    np.testing.assert_array_equal(head.bias, BIAS)


def test_a_version_may_have_no_head(tmp_path: Path) -> None:
    assert head_of(write_token_classifier(tmp_path, head=None)) is None


@pytest.mark.parametrize(
    "head",
    [
        {"weight": WEIGHT[:2], "bias": BIAS},
        {"weight": WEIGHT[:, :2], "bias": BIAS},
        {"weight": WEIGHT, "bias": BIAS[:2]},
        {"weight": WEIGHT},
    ],
    ids=["classes", "channels", "bias", "no bias"],
)
def test_a_head_that_does_not_fit_is_rejected(tmp_path: Path, head: dict) -> None:
    folder = write_token_classifier(tmp_path, head=head)
    with pytest.raises(InvalidEntry, match=r"head\.npz does not fit the model's tokens"):
        head_of(folder)


def test_a_head_that_was_changed_is_rejected(tmp_path: Path) -> None:
    folder = write_token_classifier(tmp_path)
    path = folder / "1/head.npz"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InvalidEntry, match=r"head\.npz does not have the SHA-256"):
        head_of(folder)
