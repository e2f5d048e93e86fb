"""The classifier: its training step, and inference."""

from functools import cache, partial

import torch
import torch.nn.functional as F
from bench.gpu.harness import Bench, Figures
from bench.gpu.measure import throughput
from bench.gpu.training import Inputs, TrainStep
from bench.steps import clips, count_flops
from torch import Tensor

from cmaev.engine.compilation import Compile, compile_training
from cmaev.engine.precision import autocast
from cmaev.models import VideoClassifier, create_model

CLASSES = 400


def classifier(bench: Bench, name: str, *, drop_path: float = 0.0) -> VideoClassifier:
    """With the same weights every time."""
    torch.manual_seed(0)
    return create_model(name, num_classes=CLASSES, drop_path_rate=drop_path).to(bench.device)


@cache
def flops(name: str, *, trained: bool) -> float:
    """Of a clip, counted: of its forward pass, or of both."""
    with torch.device("meta"):
        model = create_model(name, num_classes=CLASSES)
    model, (video, _) = model.to("meta"), clips(name, 2, device=torch.device("meta"))

    def run() -> None:
        with torch.set_grad_enabled(trained):
            logits = model(video)
        if trained:
            logits.sum().backward()

    return count_flops(run) / 2


def finetuning(bench: Bench) -> None:
    """ViT-B: a step, and answers one by one and in batches."""
    name = bench.model("base")
    forms: dict[str, Compile] = {"eager": "none", "blocks compiled": "blocks", "compiled": "step"}
    for form, how in bench.cases(forms, small=("compiled",)).items():
        batch = bench.size(64, small=2)
        work = partial(train, bench, name, batch=batch, how=how)
        bench.case("finetune", f"training step, {form}", work)
    for batch in {1, bench.size(64, small=1)}:
        for form, how in bench.cases(forms, small=("eager",)).items():
            work = partial(infer, bench, name, batch=batch, how=how)
            graphs = ", CUDA graphs" if how == "step" else ""
            bench.case("finetune", f"inference, batch {batch}, {form}{graphs}", work)


def train(bench: Bench, name: str, *, batch: int, how: Compile) -> Figures:
    """Forward, backward, AdamW, with stochastic depth as in the recipe."""
    model = classifier(bench, name, drop_path=0.1)
    module = compile_training(model, how, backend=bench.backend)

    def loss(inputs: Inputs) -> Tensor:
        video, label = inputs
        return F.cross_entropy(module(video).float(), label, label_smoothing=0.1)

    label = torch.randint(CLASSES, (batch,), device=bench.device)
    views = clips(name, batch, device=bench.device)
    step = TrainStep(
        model, loss, [(view, label) for view in views], device=bench.device, dtype=bench.dtype
    )
    return throughput(bench, step, batch=batch, flops_per_clip=flops(name, trained=True))


def infer(bench: Bench, name: str, *, batch: int, how: Compile) -> Figures:
    """Logits of clips."""
    model = classifier(bench, name).eval()
    module = compile_training(
        model, how, cuda_graphs=how == "step" and bench.cuda, backend=bench.backend
    )
    video, _ = clips(name, batch, device=bench.device)

    def answer() -> Tensor:
        with torch.inference_mode(), autocast(bench.dtype, bench.device):
            logits: Tensor = module(video)
            return logits

    return throughput(bench, answer, batch=batch, flops_per_clip=flops(name, trained=False))
