"""Arguments that several commands share: how they are declared, and read back."""

import argparse
import json
from pathlib import Path
from typing import Any

from model_export.entry.precisions import PRECISIONS, PrecisionName
from model_export.entry.version import Version, open_version
from model_export.errors import InvalidEntry
from model_export.execution_providers import PROVIDERS
from model_export.models.registry import TOKEN_RELATIONS, TOKENIZERS, Dimensions, dimensions_of


def add_dimensions(command: argparse.ArgumentParser) -> None:
    """Add the flags that change a registered model."""
    group = command.add_argument_group("dimensions", "Defaults are those of the registered model.")
    group.add_argument("--tokenizer", choices=TOKENIZERS)
    group.add_argument("--token-relation", choices=TOKEN_RELATIONS)
    group.add_argument("--tokens", type=int, help="tokens per VT module or pyramid level")
    group.add_argument(
        "--no-projector",
        dest="projector",
        action="store_false",
        default=None,
        help="keep the tokens instead of projecting them back onto the feature map",
    )
    group.add_argument(
        "--stride-in-1x1",
        action="store_true",
        default=None,
        help="put the stride of a bottleneck into its first 1x1 convolution",
    )
    group.add_argument("--heads", type=int, help="attention heads of the transformer")
    group.add_argument(
        "--input-size", type=int, nargs=2, metavar=("H", "W"), help="height and width of the input"
    )


def dimensions_from(options: argparse.Namespace, classes: int | None) -> Dimensions:
    """The dimensions of `options.model` with the flags of `add_dimensions`."""
    return dimensions_of(
        options.model,
        classes=classes,
        tokenizer=options.tokenizer,
        token_relation=options.token_relation,
        tokens=options.tokens,
        projector=options.projector,
        stride_in_1x1=options.stride_in_1x1,
        heads=options.heads,
    )


def input_size_from(options: argparse.Namespace) -> tuple[int, int] | None:
    """Height and width, if `--input-size` was given."""
    return None if options.input_size is None else (options.input_size[0], options.input_size[1])


def add_repository(command: argparse.ArgumentParser, version_help: str) -> None:
    """Add the flags that locate a version in a model repository."""
    command.add_argument(
        "--weights-dir",
        type=Path,
        default=Path("weights"),
        help="the model repository (default: weights)",
    )
    command.add_argument("--version", help=version_help)


def add_version(command: argparse.ArgumentParser) -> None:
    """Add the arguments that choose an existing version."""
    command.add_argument("name", help="name of the model in the repository")
    add_repository(command, "version of the model (default: the newest)")


def version_from(options: argparse.Namespace) -> Version:
    """The version that `add_version` chooses."""
    return open_version(options.weights_dir, options.name, options.version)


def add_measurement(command: argparse.ArgumentParser) -> None:
    """Add the flags that choose what is measured, and where."""
    command.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        help="precisions to measure (default: all of the version)",
    )
    command.add_argument(
        "--execution-provider",
        choices=PROVIDERS,
        default="cpu",
        help="execution provider of ONNX Runtime (default: cpu)",
    )
    command.add_argument(
        "--record", action="store_true", help="write the results into the certificate"
    )


def precisions_from(options: argparse.Namespace, version: Version) -> list[PrecisionName]:
    """The precisions of `--precision`, by default all of the version."""
    available: list[PrecisionName] = list(version.certificate()["precisions"])
    missing = [name for name in options.precision or () if name not in available]
    if missing:
        raise InvalidEntry(
            f"{version.name} {version.version} has no {missing[0]} graph; "
            f"available: {', '.join(available)}"
        )
    return options.precision or available


def providers_of(certificate: dict[str, Any], precision: PrecisionName) -> dict[str, Any]:
    """The figures of a certificate on one precision, by execution provider."""
    providers: dict[str, Any] = certificate["precisions"][precision]["execution_providers"]
    return providers


def positive(text: str) -> int:
    """An integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def crop_size(text: str) -> tuple[int, int]:
    """Height and width of `96` or `256x320`."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def recipe_field(text: str) -> tuple[str, Any]:
    """Name and value of `mixup=0.2`; the value is JSON."""
    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError as error:
        wanted = "a JSON value, such as 0.2, true or [0.5,2]" if equals else "FIELD=VALUE"
        raise argparse.ArgumentTypeError(f"{text} must be {wanted}") from error
