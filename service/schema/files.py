"""Read and check the files of a model repository entry."""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from service.errors import InvalidEntry
from service.schema.certificate import Certificate
from service.schema.contract import Contract
from service.schema.record import Record
from service.schema.validation import first_problem

NOT_LISTED = "config.json does not list it"
R = TypeVar("R", bound=Record)


def read_contract(folder: Path) -> Contract:
    """Read and check `config.json`; its folder must have the model's name."""
    data = _read(folder / "config.json")
    contract = _parse(Contract, data, "config.json")
    if contract.name != folder.name:
        raise InvalidEntry(
            f"config.json names the model {contract.name}, but its folder is {folder.name}"
        )
    _check_preprocessing_hash(json.loads(data))
    return contract


def read_certificate(folder: Path, contract: Contract, version: str) -> Certificate:
    """Read the version's certificate; its SHA-256 must be the one in the contract."""
    if version not in contract.versions:
        raise InvalidEntry(NOT_LISTED)
    data = _read(folder / version / "certificate.json")
    if hashlib.sha256(data).hexdigest() != contract.versions[version].certificate_sha256:
        raise InvalidEntry("certificate.json does not have the SHA-256 that config.json states")
    certificate = _parse(Certificate, data, "certificate.json")
    if (certificate.model, certificate.version) != (contract.name, version):
        raise InvalidEntry("certificate.json belongs to another model or version")
    return certificate


def read_certified(folder: Path, certificate: Certificate, file: str) -> bytes:
    """Read a file of the version; its SHA-256 must be the one in the certificate."""
    sha256 = certificate.sha256(file)
    data = _read(folder / certificate.version / file)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InvalidEntry(f"{file} does not have the SHA-256 that certificate.json states")
    return data


def read_arrays(folder: Path, certificate: Certificate, file: str) -> dict[str, npt.NDArray[Any]]:
    """Read a certified `.npz` file of the version."""
    data = read_certified(folder, certificate, file)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidEntry(f"{file} cannot be read as arrays") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidEntry(f"{path.name} cannot be read: {error.strerror}") from error


def _parse(record: type[R], data: bytes, name: str) -> R:
    try:
        return record.model_validate_json(data)
    except ValidationError as error:
        raise InvalidEntry(f"{name} is not valid: {first_problem(error)}") from error


def _check_preprocessing_hash(config: dict[str, object]) -> None:
    canonical = json.dumps(config["preprocessing"], sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(canonical.encode()).hexdigest() != config.get("preprocessing_sha256"):
        raise InvalidEntry("config.json's preprocessing does not have the SHA-256 that it states")
