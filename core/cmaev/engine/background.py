"""One piece of work at a time beside the training."""

from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does work in a thread; what goes wrong there is raised by `wait`."""

    def __init__(self, *, name: str, beside: bool = True) -> None:
        """Starts no thread yet.

        Args:
            name: of the thread.
            beside: whether whoever starts work goes on meanwhile.
        """
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._beside = beside
        self._under_way: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins `work`, once what was begun before is done.

        Raises:
            Exception: of the work before.
        """
        self.wait()
        self._under_way = self._pool.submit(work)
        if not self._beside:
            futures.wait([self._under_way])

    @property
    def failed(self) -> bool:
        """Whether something went wrong since; never waits."""
        done = self._under_way
        return done is not None and done.done() and done.exception() is not None

    def wait(self) -> None:
        """Waits for what is under way, and raises what went wrong."""
        done, self._under_way = self._under_way, None
        if done is not None:
            done.result()

    def close(self) -> None:
        """Waits for the last time, and ends the thread."""
        self._pool.shutdown()
        self.wait()
