"""`python -m cmaev_trainer`: one worker with one slot, configured by CMAEV_ variables."""

import sys

from cmaev_spec import lifeline
from cmaev_spec.exits import EXIT_BAD_INPUT, BadInput
from cmaev_spec.wire import QUEUE

from cmaev_trainer.app import app
from cmaev_trainer.settings import load_settings


def main() -> int:
    """Checks the settings, then serves the queue until SIGTERM or SIGINT."""
    lifeline.watch()
    try:
        settings = load_settings()
        settings.read_key()
        settings.runs_dir.mkdir(parents=True, exist_ok=True)
    except BadInput as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_BAD_INPUT
    except OSError as error:
        sys.stderr.write(f"error: CMAEV_RUNS_DIR: {error}\n")
        return EXIT_BAD_INPUT
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


if __name__ == "__main__":
    sys.exit(main())
