"""Generated videos, and runs on them that tests only look at."""

import signal

import pytest
from runs import job, run

from cmaev.data.synth import synthesise


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    out = tmp_path_factory.mktemp("videos")
    synthesise(out, classes=2, per_class=8, val_per_class=3)
    return out


@pytest.fixture(scope="session")
def pretrained(videos, tmp_path_factory):
    code, folder = run(tmp_path_factory.mktemp("runs") / "pretrained", job("pretrain", videos))
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def finetuned(videos, pretrained, tmp_path_factory):
    spec = job("finetune", videos, init=str(pretrained.path))
    code, folder = run(tmp_path_factory.mktemp("runs") / "finetuned", spec)
    assert code == 0
    return folder


@pytest.fixture
def own_signals():
    """Runs that start in this process take over SIGTERM and SIGINT; pytest gets them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
