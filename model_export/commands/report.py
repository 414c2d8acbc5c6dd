"""Console output that several commands share."""

from model_export.comparison.parity import Parity


def print_parity(parity: Parity) -> None:
    """Print one line on the inputs of a comparison, one per output, and the agreement."""
    print(
        f"torch against {parity.precision} ({parity.provider}): {parity.real_images} photos, "
        f"{parity.random_images} random images, batches {parity.batches}, sizes {parity.sizes}"
    )
    for name, difference in parity.max_absolute_difference.items():
        relative = parity.max_relative_difference[name]
        print(f"  {name}: largest difference {difference:.2e}, relative {relative:.2e}")
    print(f"  answers that agree: {parity.agreement:.4%}")
