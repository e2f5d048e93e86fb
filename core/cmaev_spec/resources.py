"""What a job runs on."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cmaev_spec.base import Spec


class ResourceSpec(Spec):
    """Processes, devices and, in a cluster, requests of one training pod."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    nodes: int = Field(1, ge=1, le=1024)
    processes_per_node: int = Field(1, ge=1, le=16, description="one per GPU")
    shard: Literal["none", "full"] = Field(
        "none",
        description="full: each process keeps a part of weights, gradients and moments (FSDP2), "
        "for models that fill a card; checkpoints are the same",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads per process; None: PyTorch's")
    cpus: float = Field(2.0, gt=0.0, description="CPU cores per pod")
    memory_gib: float = Field(8.0, gt=0.0, description="memory per pod")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shard != "none" and self.world_size == 1:
            raise ValueError(
                "shard: one process has nothing to share; raise processes_per_node or nodes, or "
                "set shard to none"
            )
        return self

    @property
    def world_size(self) -> int:
        """Training processes over all nodes."""
        return self.nodes * self.processes_per_node


class ComputeSpec(Spec):
    """How a model computes, in training and where it is measured."""

    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on GPUs from Ampere on, fp32 elsewhere"
    )


class RunControlSpec(ComputeSpec):
    """How a run computes, logs and saves; nothing here changes its result beyond rounding."""

    compile: Literal["none", "blocks", "step"] = Field(
        "none",
        description="at the first step: blocks, one of each kind; step, all as one graph, the "
        "longer wait",
    )
    cuda_graphs: bool = Field(
        False, description="compile: step on CUDA only: launch its kernels by one call"
    )
    attention: Literal["auto", "flash", "cudnn", "efficient", "math"] = Field(
        "auto", description="the implementation of attention; auto: PyTorch's choice"
    )
    checkpoint_every: int = Field(1, ge=1, description="epochs between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="latest checkpoints kept")
    keep_every: int | None = Field(
        None, ge=1, description="checkpoints at multiples of so many epochs are kept, too"
    )
    async_checkpoints: bool = Field(
        True,
        description="write a checkpoint while training goes on, from a copy that stays in memory",
    )
    log_every: int = Field(10, ge=1, description="steps between metrics")
    max_nonfinite_steps: int = Field(
        10,
        ge=0,
        le=100,
        description="a step whose loss or gradient is not finite is left out; more than this of "
        "the last 100 end the run",
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="where curves go besides metrics.jsonl; each needs its package"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cuda_graphs and self.compile != "step":
            raise ValueError(
                f"cuda_graphs replays a compiled step, but compile is {self.compile}; "
                "set compile to step, or leave cuda_graphs out"
            )
        if self.keep_every is not None and self.keep_every % self.checkpoint_every:
            raise ValueError(
                f"keep_every ({self.keep_every}) must be a multiple of "
                f"checkpoint_every ({self.checkpoint_every})"
            )
        return self


class FinetuneControlSpec(RunControlSpec):
    """What is measured while finetuning goes on, and what is kept for it."""

    eval_every: int | None = Field(
        None,
        ge=1,
        description="epochs between evaluations, each with a checkpoint; None: after the last only",
    )
    keep_best: Literal["macro_recall", "top1"] | None = Field(
        "macro_recall", description="the checkpoint with the highest such figure is kept, too"
    )
