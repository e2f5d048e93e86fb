"""Limited children: whatever a call does to its process, the caller gets a value or an error."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from cmaev.data.decode import open_video
from cmaev.data.errors import DataError
from cmaev.data.sandbox import LimitedPool, run_limited

# Holds the interpreter's lock for years; as a decoder's native code may.
ENDLESS = re.compile("(a+)+$").match


@pytest.fixture(scope="module")
def pool():
    with LimitedPool(1, memory=256 << 20, seconds=60) as pool:
        yield pool


def pid(pool: LimitedPool) -> int:
    return pool.run(eval, "__import__('os').getpid()")


def test_values_come_back_from_one_warm_process(pool: LimitedPool) -> None:
    assert pool.run(sorted, [3, 1, 2]) == [1, 2, 3]
    first = pid(pool)
    assert first != os.getpid()
    assert pid(pool) == first


def test_a_child_has_no_torch(pool: LimitedPool) -> None:
    with pytest.raises(DataError):
        pool.run(open_video, b"no video")
    assert pool.run(eval, "'torch' not in __import__('sys').modules")


def test_data_errors_come_back_and_the_child_lives(pool: LimitedPool) -> None:
    before = pid(pool)
    with pytest.raises(DataError, match="cannot be read as a video"):
        pool.run(open_video, b"no video")
    assert pid(pool) == before


def test_other_errors_are_faults_of_ours_with_their_traceback(pool: LimitedPool) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*invalid literal for int"):
        pool.run(int, "x")


def test_memory_is_limited_for_each_call(pool: LimitedPool) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="needs more than 256 MiB of memory"):
            pool.run(bytearray, 300 << 20)
        assert pool.run(len, [1]) == 1


@pytest.mark.parametrize(
    ("function", "argument", "how"),
    [
        (os._exit, 3, "exit code 3"),
        (signal.raise_signal, signal.SIGSEGV, "SIGSEGV"),
        (signal.raise_signal, signal.SIGKILL, "SIGKILL"),
    ],
)
def test_a_crash_is_an_error_and_a_new_child_comes(pool, function, argument, how: str) -> None:
    before = pid(pool)
    with pytest.raises(DataError, match=f"crashed the decoder .*{how}"):
        pool.run(function, argument)
    assert pid(pool) != before


@pytest.mark.parametrize(("function", "argument"), [(time.sleep, 600), (ENDLESS, "a" * 60 + "b")])
def test_a_hang_is_killed(function, argument) -> None:
    with (
        LimitedPool(1, seconds=0.5) as pool,
        pytest.raises(DataError, match=r"longer than 0\.5 seconds"),
    ):
        pool.run(function, argument)


def test_many_calls_share_the_children_and_lose_none() -> None:
    with LimitedPool(2, seconds=60) as pool:
        outcomes = dict(pool.map(abs, range(-20, 0)))
    assert outcomes == {number: -number for number in range(-20, 0)}


def test_one_bad_call_of_many_costs_itself_alone() -> None:
    with LimitedPool(2, seconds=60) as pool:
        outcomes = dict(pool.map(eval, ["1", "__import__('os')._exit(1)", "2", "3"]))
    assert isinstance(outcomes.pop("__import__('os')._exit(1)"), DataError)
    assert outcomes == {"1": 1, "2": 2, "3": 3}


def test_children_do_not_outlive_their_parent() -> None:
    code = (
        "import os, signal; from cmaev.data.sandbox import LimitedPool\n"
        "pool = LimitedPool(1)\n"
        "print(pool.run(eval, \"__import__('os').getpid()\"), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    child = int(done.stdout)
    while _is_running(child):
        time.sleep(0.02)


def _is_running(number: int) -> bool:
    try:
        with open(f"/proc/{number}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_run_limited_is_a_pool_of_one_call() -> None:
    assert run_limited(len, [1, 2], seconds=60) == 2
    with pytest.raises(DataError, match="needs more than 64 MiB"):
        run_limited(bytearray, 100 << 20, memory=64 << 20)
