"""The operator's choices about how models are loaded."""

from dataclasses import dataclass, field

from service.repository.precision import AUTO
from service.runtime.execution_providers import GpuOptions, ProviderName
from service.schema.contract import Contract


@dataclass(frozen=True)
class LoadOptions:
    """Settings that apply to every model; None leaves the choice to the model's contract."""

    execution_providers: str
    precision: str = AUTO
    intra_op_num_threads: int | None = None
    max_batch_size: int | None = None
    max_queue_size: int | None = None
    max_queue_delay_microseconds: int | None = None
    max_batch_seconds: float = 0.2
    """Limit on the calibrated time of a batch of two or more images."""
    token_sample_seconds: float = 0.0
    """Time between two images whose tokens are sampled; 0 samples none."""
    require_provider: ProviderName | None = None
    """Reject models that would run on another execution provider."""
    gpu_devices: tuple[int, ...] = (0,)
    gpu: GpuOptions = field(default_factory=GpuOptions)

    def batch_limit(self, contract: Contract) -> int:
        """Return the largest batch size; the operator may only lower the contract's limit."""
        return min(self.max_batch_size or contract.max_batch_size, contract.max_batch_size)

    def queue_limit(self, contract: Contract) -> int:
        """Return the maximum number of queued images."""
        return self.max_queue_size or contract.dynamic_batching.max_queue_size

    def queue_delay_seconds(self, contract: Contract) -> float:
        """Return the maximum time that an image waits for others to join its batch."""
        microseconds = self.max_queue_delay_microseconds
        if microseconds is None:
            microseconds = contract.dynamic_batching.max_queue_delay_microseconds
        return microseconds / 1e6
