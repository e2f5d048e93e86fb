"""The job specification: one frozen model per kind of job, told apart by `kind`."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from cmaev_spec.base import Spec
from cmaev_spec.data import EvaluateData, FinetuneData, PretrainData
from cmaev_spec.exits import BadInput
from cmaev_spec.model import ClassifierSpec, ObjectiveSpec, PretrainEncoderSpec
from cmaev_spec.optim import FinetuneOptimSpec, OptimSpec, check_multiple
from cmaev_spec.probe import AttentiveSpec, FrozenEncoderSpec, KnnSpec, LinearSpec, ProbeData
from cmaev_spec.resources import (
    ComputeSpec,
    FinetuneControlSpec,
    ResourceSpec,
    RunControlSpec,
)
from cmaev_spec.spelling import field_meant
from cmaev_spec.wire import RUNNERS

RunRef = Annotated[
    str,
    Field(min_length=1, description="`job:<id>` of a finished job, or the path of a run directory"),
]

Which = Annotated[
    Literal["newest", "best"],
    Field(description="best: by run.keep_best of the run, among the checkpoints that it measured"),
]

WeightsRef = Annotated[
    str,
    Field(
        min_length=1,
        description=(
            "`job:<id>` of a finished job, or the path of a run directory, of a file of weights "
            "(.safetensors, VideoMAE's .pth) or of a Hugging Face VideoMAE folder"
        ),
    ),
]


class SpecError(BadInput):
    """A specification that cannot be used; `problems` lists (field, message)."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{field}: {message}" for field, message in problems))


class JobBase(Spec):
    """What every kind of job has."""

    schema_version: Literal[1] = 1
    name: str | None = Field(None, max_length=200, description="a label for people")
    seed: int = Field(0, ge=0, lt=2**32)
    resources: ResourceSpec = ResourceSpec()

    @model_validator(mode="after")
    def _check_sharding(self) -> Self:
        if self.resources.shard != "none":
            raise ValueError("resources.shard: only what is trained is sharded; leave it out")
        return self


class TrainingJob(JobBase):
    """What the kinds with a training loop share."""

    run: RunControlSpec = RunControlSpec()

    @model_validator(mode="after")
    def _check_sharding(self) -> Self:
        if self.resources.shard != "none" and self.run.compile == "step":
            raise ValueError(
                "resources.shard: blocks are gathered one by one amid a step, which cannot be one "
                "compiled graph; set run.compile to blocks or none, or resources.shard to none"
            )
        return self


def _check_batch(optim: OptimSpec, resources: ResourceSpec) -> None:
    check_multiple(
        optim.batch_size,
        resources.world_size * optim.accumulate,
        field="optim.batch_size",
        what="nodes x processes_per_node x accumulate",
    )


class PretrainJob(TrainingJob):
    """Self-supervised CMAE-V pretraining on unlabelled videos."""

    kind: Literal["pretrain"]
    init: WeightsRef | None = Field(None, description="weights to go on from; None: at random")
    model: PretrainEncoderSpec = PretrainEncoderSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    data: PretrainData
    optim: OptimSpec

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_batch(self.optim, self.resources)
        if self.objective.contrast_weight > 0 and self.optim.batch_size < 2 * self.optim.accumulate:
            raise ValueError(
                "optim.batch_size: a clip is contrasted with the others of its micro-batch, and "
                "here it is alone; make batch_size / accumulate at least 2, or set "
                "objective.contrast_weight to 0"
            )
        return self


class FinetuneJob(TrainingJob):
    """Supervised training of a classifier, from a pretrained run or from scratch."""

    kind: Literal["finetune"]
    init: WeightsRef | None = Field(None, description="pretrained weights; None: from scratch")
    model: ClassifierSpec = ClassifierSpec()
    data: FinetuneData
    balanced: bool = Field(
        False, description="weigh classes equally in the loss, whatever their numbers of videos"
    )
    optim: FinetuneOptimSpec
    run: FinetuneControlSpec = FinetuneControlSpec()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_batch(self.optim, self.resources)
        videos = self.optim.batch_size // (self.resources.world_size * self.optim.accumulate)
        if self.data.augment.mixes and videos * self.data.num_sample % 2:
            raise ValueError(
                f"data.augment: mixup and cutmix pair the clips of a micro-batch, which has "
                f"{videos * self.data.num_sample}; make optim.batch_size / (nodes x "
                "processes_per_node x accumulate) x data.num_sample even"
            )
        return self


class ProbeJob(JobBase):
    """Simple classifiers on the features of a frozen encoder."""

    kind: Literal["probe"]
    source: WeightsRef | None = Field(
        None, description="pretrained or finetuned weights; None: an encoder without training"
    )
    model: FrozenEncoderSpec | None = Field(
        None, description="for files of weights and for none; a run knows its own"
    )
    data: ProbeData
    balanced: bool = Field(
        False, description="weigh classes equally, whatever their numbers of training videos"
    )
    knn: KnnSpec | None = Field(KnnSpec(), description="None: left out")
    linear: LinearSpec | None = Field(LinearSpec(), description="None: left out")
    attentive: AttentiveSpec | None = Field(AttentiveSpec(), description="None: left out")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source is None and (self.model is None or self.data.clip is None):
            raise ValueError("source: without one, model and data.clip say what is probed")
        if self.knn is None and self.linear is None and self.attentive is None:
            raise ValueError("knn, linear, attentive: all are left out; keep at least one")
        return self


class EvaluateJob(JobBase):
    """Multi-view evaluation of a finetuned run."""

    kind: Literal["evaluate"]
    source: RunRef
    run: ComputeSpec = ComputeSpec()
    checkpoint: Which = "newest"
    data: EvaluateData


class ExportJob(JobBase):
    """ONNX file and TorchServe archive of a finetuned run."""

    kind: Literal["export"]
    source: RunRef
    checkpoint: Which = "newest"
    model_name: str = Field("action-recogniser", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    num_clips: int = Field(1, ge=1, le=20, description="views in time that an answer averages")


JobSpec = Annotated[
    PretrainJob | FinetuneJob | ProbeJob | EvaluateJob | ExportJob, Field(discriminator="kind")
]
JOB_ADAPTER: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)

KINDS: Final[dict[str, type[JobBase]]] = {
    "pretrain": PretrainJob,
    "finetune": FinetuneJob,
    "probe": ProbeJob,
    "evaluate": EvaluateJob,
    "export": ExportJob,
}


def parse_job(data: object) -> JobSpec:
    """Validates plain data into a job.

    Raises:
        SpecError: naming each field that is wrong and why.
    """
    try:
        return JOB_ADAPTER.validate_python(data)
    except ValidationError as error:
        raise SpecError(spec_problems(error.errors(include_url=False))) from None


def spec_problems(errors: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Pydantic's errors as (field, message), in the words that every part of the stack uses."""
    return [_problem(item) for item in errors]


def load_job(path: str | Path, *, overrides: Iterable[str] = ()) -> JobSpec:
    """Reads a job from a YAML or JSON file and applies `a.b=value` overrides.

    Raises:
        SpecError: if the file cannot be read, is not a mapping, or does not validate.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError([("spec", f"cannot read {path}: {error.strerror}")]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError([("spec", f"{path} is not YAML: {error}")]) from None
    if not isinstance(data, dict):
        raise SpecError([("spec", f"{path} must hold a mapping with a `kind`")])
    return parse_job(apply_overrides(data, overrides))


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Returns `data` with each `dotted.key=yaml-value` set.

    Raises:
        SpecError: for an override without `=` or through a value that is not a mapping.
    """
    result: dict[str, Any] = {**data}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise SpecError([("override", f"{override!r} must read dotted.key=value")])
        *parents, leaf = key.split(".")
        node = result
        for parent in parents:
            child = node.get(parent) or {}
            if not isinstance(child, dict):
                raise SpecError([(key, f"{parent!r} is not a mapping")])
            node[parent] = node = {**child}
        try:
            node[leaf] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise SpecError([(key, f"{text!r} is not a YAML value")]) from None
    return result


def referenced_run(job: JobSpec) -> str | None:
    """The run or the weights that a job starts from, if it needs any."""
    if isinstance(job, PretrainJob | FinetuneJob):
        return job.init
    return job.source


_OWN_FIELD: Final = re.compile(r"((?:[a-z_.]+, )*[a-z_.]+): (.+)", re.DOTALL)
"""What a check of a whole section begins its message with: the fields that it is about."""


def _problem(item: Mapping[str, Any]) -> tuple[str, str]:
    field, text = _field(item["loc"]), _message(item)
    inner = _OWN_FIELD.fullmatch(text) if item["type"] == "value_error" else None
    if inner is None:
        return field or "spec", text
    return (f"{field}.{inner[1]}" if field else inner[1]), inner[2]


def _field(location: tuple[int | str, ...]) -> str:
    """Empty for the whole job."""
    if not location:
        return "kind"
    parts = location[1:] if location[0] in RUNNERS else location
    return ".".join(str(part) for part in parts)


def _message(item: Mapping[str, Any]) -> str:
    if item["type"] == "extra_forbidden":
        return _unknown_field(item["loc"])
    if item["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        return f"must be one of {', '.join(RUNNERS)}"
    return str(item["msg"]).removeprefix("Value error, ")


def _unknown_field(location: tuple[int | str, ...]) -> str:
    job = KINDS.get(str(location[0]))
    meant = None if job is None else field_meant(job, [str(part) for part in location[1:]])
    if meant is None:
        return "unknown field; check the spelling against the job's schema"
    return f"unknown field; did you mean {meant}?"
