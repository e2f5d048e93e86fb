"""One piece of work at a time beside the training."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does work in a thread; what goes wrong there is raised in the caller's thread."""

    def __init__(self, *, name: str, enabled: bool = True) -> None:
        """Starts no thread yet.

        Args:
            name: of the thread.
            enabled: do it right away, in the caller's thread, where not.
        """
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._enabled = enabled
        self._under_way: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins `work`, once what was begun before is done.

        Raises:
            Exception: of the work before.
        """
        self.wait()
        if self._enabled:
            self._under_way = self._pool.submit(work)
        else:
            work()

    def check(self) -> None:
        """Raises what went wrong since; never waits."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Waits for what is under way, and raises what went wrong."""
        done, self._under_way = self._under_way, None
        if done is not None:
            done.result()

    def close(self) -> None:
        """Waits for the last time, and ends the thread."""
        self._pool.shutdown()
        self.wait()
