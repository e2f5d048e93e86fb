"""The study on generated videos: what its jobs have in common, and where they differ."""

from pathlib import Path

import pytest
from bench.generated import ALL, FINETUNINGS, LONGEST, PRETRAININGS, STEPS, Study, Task

STUDY = Study(Path("/study"), seeds=2)
ARMS = [arm for arm in PRETRAININGS if arm != "scratch"]


def clips(arm: str) -> int:
    """How many a pretraining sees, if no batch is left out."""
    job = STUDY.pretraining(Task(arm, 0))
    return job.optim.epochs * (4400 if job.data.index.endswith("many.csv") else 400)


def test_every_finetuning_waits_for_its_pretraining() -> None:
    plan = STUDY.plan()
    assert len(plan) == 2 * len(PRETRAININGS) * (1 + len(FINETUNINGS))
    assert len({task.name for task in plan}) == len(plan)
    for task, needed in plan.items():
        assert needed == ([] if task.finetuning is None else [Task(task.arm, task.seed)])


def test_a_part_of_the_study_has_the_tasks_and_columns_asked_for() -> None:
    part = Study(Path("/study"), seeds=1, arms=["scratch", "cmaev"], finetunings=[LONGEST])
    assert {(task.arm, task.finetuning) for task in part.plan()} == {
        (arm, how) for arm in ("scratch", "cmaev") for how in (None, LONGEST)
    }
    head, _, *rows = part.table().splitlines()
    assert head.count(LONGEST.name) == 2, "from one view, and from five"
    assert [row.count("|") for row in rows] == [head.count("|")] * 2


@pytest.mark.parametrize("arm", ARMS)
def test_a_pretraining_differs_from_the_first_as_its_name_says(arm: str) -> None:
    job, first = (STUDY.pretraining(Task(name, 0)) for name in (arm, "cmaev"))
    objective = job.objective.model_dump()
    changed = {
        name for name, value in first.objective.model_dump().items() if objective[name] != value
    }
    assert ("contrast_weight" in changed) == arm.startswith("reconstruction")
    assert ("reconstruction_weight" in changed) == ("contrast alone" in arm)
    assert ({"norm_pix", "mask_ratio"} <= changed) == ("plain pixels" in arm)
    assert job.data.color_augment == ("no colour augmentation" not in arm)
    longer = "4 times as long" in arm or "more videos" in arm
    assert clips(arm) == pytest.approx((4 if longer else 1) * clips("cmaev"), rel=0.02)


@pytest.mark.parametrize("how", FINETUNINGS)
def test_all_arms_are_finetuned_alike(how) -> None:  # type: ignore[no-untyped-def]
    one, other = (STUDY.finetuning(Task(arm, 0, how), how) for arm in ("scratch", "cmaev"))
    assert other.init is not None
    assert one == other.model_copy(update={"init": None})
    steps = one.optim.epochs * (8 * how.labels // one.optim.batch_size)
    assert steps == pytest.approx(how.times * STEPS, rel=0.01)
    assert one.data.index.endswith(f"train-{how.labels}.csv")
    assert how.labels <= ALL
