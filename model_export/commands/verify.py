"""`vt-export verify`: compare the graphs of a version with its checkpoint."""

import argparse
from pathlib import Path

from model_export.commands.arguments import (
    add_measurement,
    add_version,
    precisions_from,
    providers_of,
    version_from,
)
from model_export.commands.inputs import photos_in
from model_export.commands.report import print_parity
from model_export.comparison.measurement import measure
from model_export.comparison.parity import Comparison, require_parity
from model_export.entry.publish import record
from model_export.entry.version import Version
from model_export.execution_providers import PROVIDERS

SUMMARY = "Compare graphs with their checkpoint."


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_version(command)
    command.add_argument(
        "--images", type=Path, help="folder of photos to compare on (default: the examples)"
    )
    add_measurement(command)


def run(options: argparse.Namespace) -> None:
    """Execute the command."""
    version = version_from(options)
    certificate = version.certificate()
    for comparison in _comparisons(options, version):
        parity, section = measure(comparison)
        print_parity(parity)
        require_parity(parity)
        providers = providers_of(certificate, comparison.precision)
        providers[parity.provider] = providers.get(parity.provider, {}) | section
    version.check_files()
    if options.record:
        record(version, certificate)


def _comparisons(options: argparse.Namespace, version: Version) -> list[Comparison]:
    """One comparison per precision, all on the same model and photos."""
    model = version.served_model()
    photos = photos_in(options.images) if options.images else version.examples
    return [
        Comparison(
            model,
            version.graph(precision),
            version.preprocessing,
            photos,
            version.contract["max_batch_size"],
            precision=precision,
            provider=PROVIDERS[options.execution_provider],
        )
        for precision in precisions_from(options, version)
    ]
