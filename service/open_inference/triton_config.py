"""A model's configuration in Triton's format, for Triton's clients and tools."""

from typing import Any

from service.batching.interface import Instance
from service.runtime.execution_providers import CPU
from service.schema.version_policy import VersionPolicy
from service.schema.vocabulary import MetadataTensor

Json = dict[str, Any]


def model_config(instance: Instance, policy: VersionPolicy) -> Json:
    """Return Triton's model configuration with the values in force.

    Values from the settings, a load request or the calibration replace those of the contract.
    """
    contract, batching = instance.contract, instance.batching
    kind = "KIND_CPU" if instance.build.active_provider == CPU else "KIND_GPU"
    return {
        "name": contract.name,
        "platform": contract.platform,
        "backend": "onnxruntime",
        "version_policy": policy.model_dump(exclude_none=True),
        "max_batch_size": instance.max_batch_size,
        "input": [_tensor(each) | {"optional": False} for each in contract.inputs],
        "output": [_tensor(each) for each in contract.outputs],
        "instance_group": [{"name": contract.name, "kind": kind, "count": 1}],
        "dynamic_batching": {
            "preferred_batch_size": sorted({width.max_batch_size for width in batching.widths}),
            "max_queue_delay_microseconds": batching.max_queue_delay_microseconds,
        },
        "model_transaction_policy": {"decoupled": False},
    }


def _tensor(tensor: MetadataTensor) -> Json:
    """Describe a tensor without its first dimension, the batch."""
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{tensor.datatype}",
        "dims": tensor.shape[1:],
    }
