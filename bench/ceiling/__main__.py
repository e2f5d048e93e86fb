"""`python -m bench.ceiling --data $CMAEV_TEST_DATA/ceiling --out DIR`; goes on where it stopped."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.ceiling.arms import Source
from bench.ceiling.budget import BUDGETS
from bench.ceiling.clips import FOLDS, index, read_clips, write_indexes
from bench.ceiling.report import report
from bench.ceiling.running import Resident
from bench.ceiling.study import Study
from bench.ceiling.work import work_through


def main(argv: Sequence[str]) -> int:
    """Runs what is not done yet, then prints the tables; 1 if a task failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.ceiling", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the clips")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", choices=BUDGETS, default="gpu")
    parser.add_argument(
        "--folds", nargs="*", type=int, choices=FOLDS, default=FOLDS, help="test folds; may be none"
    )
    parser.add_argument("--grid", action="store_true", help="also weights of the contrast x shifts")
    parser.add_argument("--processes", type=int, default=1, help="that share the device")
    parser.add_argument("--minutes", type=float, default=1e6, help="no task starts after this")
    arguments = parser.parse_args(argv)
    budget = BUDGETS[arguments.budget]
    data, out = arguments.data.absolute(), arguments.out.absolute()
    write_indexes(read_clips(data), out / "indexes", every=budget.every)
    study = Study(Source(data, out / "indexes", budget), out)
    plan = study.plan(tuple(arguments.folds), grid=arguments.grid)
    everything = index(out / "indexes", FOLDS, labelled=False)
    workers = max(1, (os.cpu_count() or 2) - 1)
    resident = Resident(everything, data, size=budget.size, workers=workers)
    failed = work_through(
        plan,
        study.do,
        study.result,
        begin=resident.install,
        processes=arguments.processes,
        minutes=arguments.minutes,
    )
    print(report(study), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
