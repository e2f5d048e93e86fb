"""Fields by one word: each is told to type checkers as the specification has it."""

import typing

import pytest

from cmaev_spec import overrides
from cmaev_spec.base import Spec
from cmaev_spec.job import FinetuneJob, parse_job
from cmaev_spec.overrides import JOBS, apply_words, in_words, override_fields
from cmaev_spec.preset import load_preset
from cmaev_spec.spelling import SYNONYMS

TOLD = {
    "pretrain": overrides.PretrainOverrides,
    "finetune": overrides.FinetuneOverrides,
    "probe": overrides.ProbeOverrides,
    "evaluate": overrides.EvaluateOverrides,
}


def annotation(job: type[Spec], path: str) -> object:
    *sections, leaf = path.split(".")
    for section in sections:
        inner = job.model_fields[section].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, Spec)
        job = inner
    return job.model_fields[leaf].annotation


@pytest.mark.parametrize("kind", TOLD)
def test_type_checkers_know_every_override(kind: str) -> None:
    """A field that is new in the specification is to be added to its class in overrides.py."""
    wanted = {word: annotation(JOBS[kind], path) for word, path in override_fields(kind).items()}
    assert typing.get_type_hints(TOLD[kind]) == wanted


def test_words_reach_every_depth() -> None:
    preset = load_preset("nano-finetune")
    before = load_preset("nano-finetune")
    words = {"epochs": 7, "frames": 4, "mixup": 0.5, "model": "m", "label_names": ("a", "b")}
    job = parse_job(apply_words(preset, words))
    assert isinstance(job, FinetuneJob)
    assert (job.optim.epochs, job.data.clip.frames, job.data.augment.mixup) == (7, 4, 0.5)
    assert (job.model.name, job.data.labels) == ("m", ("a", "b"))
    assert (job.optim.layer_decay, job.data.clip.size) == (0.9, 32), "the rest is the preset's"
    assert preset == before


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("epoch", "unexpected argument 'epoch'; did you mean 'epochs'?"),
        ("learning_rate", "unexpected argument 'learning_rate'; did you mean 'base_lr'?"),
        ("lr", "did you mean 'base_lr'?"),
        ("bs", "did you mean 'batch_size'?"),
        ("num_epochs", "did you mean 'epochs'?"),
        ("mask_ratio", "unexpected argument 'mask_ratio'"),  # of pretraining
    ],
)
def test_a_misspelt_word_is_told_its_neighbour(word: str, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        apply_words({"kind": "finetune"}, {word: 1})
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", JOBS)
def test_a_word_that_is_like_none_gets_a_short_list(kind: str) -> None:
    with pytest.raises(TypeError) as caught:
        apply_words({"kind": kind}, {"xyzzy": 1})
    some = str(caught.value).partition("alike are ")[2].partition(";")[0].split(", ")
    assert len(set(some)) == 5
    assert set(some) <= override_fields(kind).keys()


def test_synonyms_stand_for_fields_and_are_none() -> None:
    words = {word for kind in JOBS for word in override_fields(kind)}
    assert set(SYNONYMS.values()) <= words
    assert not set(SYNONYMS) & words


def test_fields_are_named_by_their_words() -> None:
    assert in_words("pretrain", "optim.epochs") == "epochs"
    assert in_words("pretrain", "optim.betas.0") == "betas.0"
    assert in_words("pretrain", "model.name") == "model"
    assert in_words("finetune", "data.augment.rand_augment.magnitude") == "rand_augment.magnitude"
    assert in_words("pretrain", "optim") == "optim"
