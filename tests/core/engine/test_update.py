"""A step whose loss or gradient is not finite leaves everything as it was."""

import copy

import pytest
import torch
from torch import nn

from cmaev.engine.distributed import World
from cmaev.engine.optim import adamw, load_moments, moments
from cmaev.engine.update import RECENT_STEPS, SkippedSteps, Update, backward
from cmaev.engine.window import Window
from cmaev.models import create_pretraining_model
from cmaev.tasks.pretrain import PretrainTask
from cmaev_spec.model import ObjectiveSpec

ONE = World(rank=0, size=1, device=torch.device("cpu"))
NANO = "cmaev_vit_nano_patch8_32"


class Net(nn.Module):
    """A layer with running statistics and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)
        self.register_buffer("constant", torch.ones(2), persistent=False)

    def forward(self, x):
        return self.head(self.norm(self.body(x)).relu()).square().mean()


def prepared(net, **options):
    optimizer = adamw(net, weight_decay=0.05, betas=(0.9, 0.95), eps=1e-8)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    return Update(net, optimizer, **options), optimizer


def batch(number):
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(number))


def step(net, update, number, x, *, factor=1.0):
    update.begin()
    backward(net(x) * factor, accumulate=1)
    return update.finish(number)


def everything(net, optimizer):
    state = {f"moment {n} {k}": v for n, s in moments(optimizer, net).items() for k, v in s.items()}
    return {name: value.clone() for name, value in {**net.state_dict(), **state}.items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize(
    ("x", "factor"),
    [
        (torch.full((6, 4), torch.inf), 1.0),  # running statistics would be NaN as well
        (batch(9), torch.nan),
        (batch(9), torch.inf),
        (batch(9) * 1e15, 1e30),  # a finite loss whose gradient is not
    ],
)
def test_a_step_that_is_not_finite_changes_nothing(x, factor, clip_norm):
    net = Net()
    update, optimizer = prepared(net, clip_norm=clip_norm)
    step(net, update, 0, batch(0))
    before = everything(net, optimizer)
    taken, norm = step(net, update, 1, x, factor=factor)
    assert taken == 0
    assert not norm.isfinite()
    assert same(everything(net, optimizer), before)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert step(net, update, 2, batch(2))[0] == 1

    other = Net()
    update, other_optimizer = prepared(other, clip_norm=clip_norm)
    for number in (0, 2):
        step(other, update, number, batch(number))
    assert same(everything(net, optimizer), everything(other, other_optimizer))


def test_finite_steps_are_those_of_the_optimiser_alone():
    net, plain = Net(), Net()
    update, _ = prepared(net)
    _, optimizer = prepared(plain)
    for number in range(3):
        taken, norm = step(net, update, number, batch(number))
        assert taken == 1
        plain(batch(number)).backward()
        gradients = [p.grad for p in plain.parameters()]
        torch.testing.assert_close(norm, torch.cat([g.flatten() for g in gradients]).norm())
        optimizer.step()
        optimizer.zero_grad()
    assert same(net.state_dict(), plain.state_dict())


def test_the_norm_is_told_before_it_is_clipped():
    net = Net()
    update, optimizer = prepared(net, clip_norm=1e-3)
    _, norm = step(net, update, 0, batch(0))
    assert norm > 1e-3
    first = torch.cat([s["exp_avg"].flatten() for s in moments(optimizer, net).values()])
    assert first.norm() == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_a_loss_that_is_not_finite_has_no_finite_gradient():
    """So that other processes learn of it by the average of gradients."""
    weight = torch.ones(3, requires_grad=True)
    backward(torch.tensor(torch.inf) + weight.sum(), accumulate=2)
    assert weight.grad.isnan().all()


def test_micro_batches_share_a_step():
    weight = torch.ones(3, requires_grad=True)
    for _ in range(3):
        backward(weight.sum(), accumulate=3)
    torch.testing.assert_close(weight.grad, torch.ones(3))


def test_the_target_stays_where_the_online_branch_does():
    torch.manual_seed(0)
    model = create_pretraining_model(NANO)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.1)
    expected = copy.deepcopy(model)
    before = copy.deepcopy(model.target_encoder.state_dict())
    model.update_target(0.9, taken=torch.tensor(0.0))
    assert same(model.target_encoder.state_dict(), before)
    model.update_target(0.9, taken=torch.tensor(1.0))
    expected.update_target(0.9)
    assert same(model.state_dict(), expected.state_dict())
    assert not same(model.target_encoder.state_dict(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("bad", [False, True])
def test_neither_a_step_nor_its_skipping_waits_for_the_card(bad):
    device = torch.device("cuda")
    torch.manual_seed(0)
    model = create_pretraining_model(NANO).to(device)
    task = PretrainTask(model, objective=ObjectiveSpec(mask_ratio=0.75))
    task.inputs.to(device)
    update, optimizer = prepared(model, clip_norm=1.0)
    means, factor = Window(), torch.tensor(torch.nan if bad else 1.0, device=device)
    views = torch.randint(0, 256, (2, 4, 8, 32, 32, 3), dtype=torch.uint8, device=device)
    mask = (torch.arange(16, device=device) >= 4).repeat(4, 4)
    before = everything(model, optimizer)

    def whole_step(number):
        update.begin()
        losses = task.step(model, {"online": views[0], "target": views[1], "mask": mask})
        backward(losses["loss"] * factor, accumulate=1)
        means.add(losses)
        taken, norm = update.finish(number)
        means.add({"grad_norm": norm})
        task.after_step(number, total_steps=2, taken=taken)

    whole_step(0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        whole_step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert update.skips.read() == ((2, 2) if bad else (0, 0))
    assert same(model.state_dict(), {n: before[n] for n in model.state_dict()}) == bad


def test_skipped_steps_are_counted_in_all_and_among_the_last():
    skips = SkippedSteps(torch.device("cpu"))
    for number in range(RECENT_STEPS + 10):
        skips.add(number, torch.tensor(float(number < 20)))
    assert skips.read() == (20, 10)
    restored = SkippedSteps(torch.device("cpu"))
    restored.load_state_dict(skips.state_dict())
    restored.add(RECENT_STEPS + 10, torch.tensor(1.0))
    assert restored.read() == (21, 10)


def test_moments_go_by_name_whatever_the_groups_are():
    net = Net()
    update, optimizer = prepared(net)
    step(net, update, 0, batch(0))
    twin = copy.deepcopy(net)
    other = adamw(
        twin, weight_decay=0.0, betas=(0.5, 0.5), eps=1e-3, layer_scale=lambda name: len(name)
    )
    load_moments(other, twin, moments(optimizer, net))
    assert same(everything(twin, other), everything(net, optimizer))
    assert {group["betas"] for group in other.param_groups} == {(0.5, 0.5)}


def window(*rows):
    made = Window()
    for row in rows:
        made.add({name: torch.tensor(value) for name, value in row.items()})
    return made


def test_means_are_those_of_finite_values():
    made = window({"loss": 1.0, "std": torch.inf}, {"loss": torch.nan, "std": -torch.inf})
    made.add({"loss": torch.tensor(4.0), "std": torch.tensor(torch.nan)})
    made.add({"grad_norm": torch.tensor(2.0)})
    assert made.take(ONE) == {"loss": 2.5, "grad_norm": 2.0}


def test_a_window_goes_on_with_another_number_of_processes():
    states = [window({"loss": 1.0}).state_dict(), window({"loss": 3.0}).state_dict()]
    restored = Window()
    restored.restore(states, ONE)
    assert restored.take(ONE) == {"loss": 2.0}
