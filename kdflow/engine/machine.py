"""Where a run happens: device, precision and processes, through Lightning Fabric.

Processes are started by torchrun or Slurm, never by kdflow. Fabric takes seconds to import, so it is imported when a
machine is opened and not before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdflow.engine import ranks
from kdflow.errors import UsageError, choices
from kdflow.ports import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import Precision

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Machine:
    """An opened device and, when launched by torchrun or Slurm, the link to the other processes.

    Attributes:
        device: Device of this process.
        rank: Number of this process, 0 for the first.
        world_size: Number of processes.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """True in the one process that writes files and logs."""
        return self.rank == 0

    @property
    def is_gpu(self) -> bool:
        """True where kernels are launched and not called."""
        return self.device.type == "cuda"

    def count_memory(self) -> None:
        """Begin :meth:`peak_memory` from here."""
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory(self) -> float | None:
        """MiB of the GPU that tensors have taken up at most, in the process that took most; None on a CPU."""
        if not self.is_gpu:
            return None
        own = torch.tensor(torch.cuda.max_memory_allocated(self.device) / 2**20, device=self.device, dtype=torch.float64)
        return round(ranks.largest(own).item(), 1)

    def session(self, precision: str = "fp32") -> Session:
        """Training arithmetic on this machine in ``precision`` (fp32, bf16, fp16)."""
        return Session(*_fabric(self.device.type, precision))


@contextmanager
def open_machine(device: str = "auto", deterministic: bool = False) -> Iterator[Machine]:
    """Open ``device`` and join the other processes; on leaving, the process group that was made here is destroyed.

    Fabric destroys only nccl groups, and only at exit; gloo processes that leave theirs alone sometimes abort.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        deterministic: Ask torch for deterministic algorithms: an error on the CPU where there is none, a warning on a
            GPU (some detection kernels have no deterministic gradient there).

    Raises:
        UsageError: Unknown device, or a GPU asked for where there is none.
    """
    kind = device_kind(device)
    was_connected = ranks.connected()
    fabric, _ = _fabric(kind, "fp32")
    with _deterministic(kind) if deterministic else nullcontext():
        try:
            yield Machine(fabric.device, fabric.global_rank, fabric.world_size)
        finally:
            if ranks.connected() and not was_connected:
                dist.destroy_process_group()


class Sealed:
    """Carries a value through Fabric and DDP unopened: their precision plugins would cast boxes in pixels to 16 bits.

    Not a dataclass, because Fabric walks through those.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


class Carrier(nn.Module):
    """The plan as a module of one sealed argument and one sealed result."""

    def __init__(self, plan: Any) -> None:
        super().__init__()
        self.plan = plan

    def forward(self, sealed: Sealed) -> Sealed:
        """Run the plan on the batch inside."""
        return Sealed(self.plan(sealed.value))


@dataclass
class Session:
    """Forward, backward and step of one training in one precision."""

    fabric: Fabric
    precision: Precision
    carrier: Any = None
    optimizer: Any = None

    def take(self, plan: Any, optimizer: torch.optim.Optimizer) -> None:
        """Train ``plan`` with ``optimizer`` from now on; gradients are averaged over processes (DDP)."""
        self.carrier = self.fabric.setup_module(Carrier(plan))
        self.optimizer = self.fabric.setup_optimizers(optimizer)

    def forward(self, batch: Batch) -> Any:
        """The plan's outcome for ``batch``, under autocast where the precision asks for it."""
        return self.carrier(Sealed(batch)).value

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, scaled in fp16."""
        self.fabric.backward(loss)

    def last_pass(self, is_last: bool) -> AbstractContextManager[None]:
        """Gradients travel between processes in the last of the accumulated passes only."""
        return self.fabric.no_backward_sync(self.carrier, enabled=not is_last)

    def clip(self, largest_norm: float) -> Tensor:
        """Shrink the gradient to ``largest_norm``; returns its norm before."""
        norm: Tensor = self.fabric.clip_gradients(
            self.carrier, self.optimizer, max_norm=largest_norm, error_if_nonfinite=False
        )
        return norm

    def step(self) -> None:
        """One optimizer step (fp16 skips it when a gradient overflowed), then clear the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def scaled(self) -> bool:
        """True when losses are scaled and overflowing steps are skipped (fp16)."""
        return getattr(self.precision, "scaler", None) is not None

    def state_dict(self) -> dict[str, Any]:
        """State of the loss scaler; empty without one."""
        return self.precision.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with a saved loss scaler."""
        self.precision.load_state_dict(state)


def _fabric(device: str, precision: str) -> tuple[Fabric, Precision]:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision, Precision

    if precision not in PRECISIONS:
        raise UsageError(f'no precision "{precision}".{choices(precision, PRECISIONS)}')
    plugin = Precision()
    if precision != "fp32":
        plugin = MixedPrecision("bf16-mixed" if precision == "bf16" else "16-mixed", device=device)
    per_node, nodes = _launched()
    strategy = "ddp" if per_node * nodes > 1 else "auto"
    fabric = Fabric(accelerator=device, devices=per_node, num_nodes=nodes, strategy=strategy, plugins=[plugin])
    fabric.launch()  # joins the processes once; a second Fabric finds them joined
    return fabric, plugin


def _launched() -> tuple[int, int]:
    """Processes per node and nodes, as torchrun or srun said; (1, 1) when started by hand."""
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        return per_node, int(os.environ["WORLD_SIZE"]) // per_node
    if SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return 1, 1


def device_kind(device: str) -> str:
    """``cpu`` or ``cuda``; raises UsageError for an unknown device, or a GPU where there is none."""
    known = ("auto", "cpu", "cuda")
    if device not in known:
        raise UsageError(f'no device "{device}".{choices(device, known)}; CUDA_VISIBLE_DEVICES chooses among GPUs')
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: torch sees no GPU here; use device cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


@contextmanager
def _deterministic(kind: str) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=kind != "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
