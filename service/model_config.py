"""A model's configuration in Triton's terms, which its clients and tools read."""

from typing import Any

from service.contract import Contract
from service.protocol import MetadataTensor

Json = dict[str, Any]


def model_config(contract: Contract, batch_sizes: list[int], kind: str) -> Json:
    """Return Triton's model configuration; `batch_sizes` are those that were chosen."""
    return {
        "name": contract.name,
        "platform": contract.platform,
        "backend": "onnxruntime",
        "version_policy": contract.version_policy.model_dump(exclude_none=True),
        "max_batch_size": contract.max_batch_size,
        "input": [_tensor(each) | {"optional": False} for each in contract.inputs],
        "output": [_tensor(each) for each in contract.outputs],
        "instance_group": [{"name": contract.name, "kind": kind, "count": 1}],
        "dynamic_batching": {
            "preferred_batch_size": batch_sizes,
            "max_queue_delay_microseconds": contract.dynamic_batching.max_queue_delay_microseconds,
        },
        "model_transaction_policy": {"decoupled": False},
    }


def _tensor(tensor: MetadataTensor) -> Json:
    """A tensor without its first dimension, which is the batch."""
    return {
        "name": tensor.name,
        "data_type": f"TYPE_{tensor.datatype}",
        "dims": tensor.shape[1:],
    }
