"""`python -m cmaev_trainer`: one worker with one slot, configured by CMAEV_ variables."""

import sys

from cmaev_spec import lifeline
from cmaev_spec.exits import EXIT_BAD_INPUT, BadInput
from cmaev_spec.wire import QUEUE
from cmaev_trainer.app import app
from cmaev_trainer.settings import WorkerSettings, load_settings


def main() -> None:
    """Serves the queue until SIGTERM or SIGINT; wrong settings end with one clear line."""
    lifeline.watch()
    try:
        settings = _checked_settings()
    except BadInput as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_BAD_INPUT)
    app.worker_main(
        [
            "worker",
            f"--queues={QUEUE}",
            f"--hostname={settings.worker_name}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel=INFO",
        ]
    )


def _checked_settings() -> WorkerSettings:
    settings = load_settings()
    settings.read_key()
    try:
        settings.runs_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"CMAEV_RUNS_DIR: {error}") from None
    return settings


if __name__ == "__main__":
    main()
