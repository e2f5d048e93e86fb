"""The state folder of a local stack: one owner at a time, secrets for that owner only.

```
api-key worker-key serving-token   secrets, mode 0600
cmaev.sqlite3                      the control plane's database
runs/<job id>/                     one run directory per job
redis/                             the embedded broker
serving/                           the serving agent
logs/<service>.log                 what each service printed
stack.json                         addresses and process ids, while the stack is up
```
"""

import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import Any

from cmaev_spec.exits import BadInput
from cmaev_spec.files import write_atomic

_LOG_ROTATE_BYTES = 16 * 1024 * 1024


class StateDir:
    """Paths of a state folder, and the lock on it.

    Raises:
        BadInput: if the folder cannot be made, or another stack runs on it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        try:
            for folder in (self.path, self.redis, self.serving, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.runs.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise BadInput(
                f"cannot use {self.path} as state folder: {error}; see --state"
            ) from None
        self._take_lock()

    @property
    def runs(self) -> Path:
        """Folder that holds one run directory per job id."""
        return self.path / "runs"

    @property
    def redis(self) -> Path:
        """Folder of the embedded broker."""
        return self.path / "redis"

    @property
    def serving(self) -> Path:
        """Folder of the serving agent."""
        return self.path / "serving"

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.path / "logs"

    @property
    def api_key(self) -> Path:
        """Key of the scope admin; the control plane writes it on its first start."""
        return self.path / "api-key"

    @property
    def worker_key(self) -> Path:
        """Key of the scope worker; the control plane writes it on its first start."""
        return self.path / "worker-key"

    @property
    def serving_token(self) -> Path:
        """What the control plane shows to the serving agent."""
        return self.path / "serving-token"

    @property
    def stack(self) -> Path:
        """Addresses and process ids, while the stack is up."""
        return self.path / "stack.json"

    def log_of(self, service: str) -> Path:
        """The log of a service; an old one that has grown large is put aside first."""
        path = self.logs / f"{service}.log"
        if path.is_file() and path.stat().st_size > _LOG_ROTATE_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return path

    def make_secret(self, path: Path) -> str:
        """The secret in a file, made when it is not there yet."""
        if not path.is_file():
            write_atomic(path, secrets.token_urlsafe(32), mode=0o600)
        return path.read_text(encoding="utf-8").strip()

    def write_stack(self, content: dict[str, Any]) -> None:
        """Tells other programs what runs and where."""
        write_atomic(self.stack, json.dumps(content, indent=1) + "\n", mode=0o600)

    def close(self) -> None:
        """Forgets what ran and frees the folder."""
        self.stack.unlink(missing_ok=True)
        os.close(self._lock)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise BadInput(
                f"a stack is running on {self.path} already ({_owner(self.stack)}); "
                "stop it, or choose another folder with --state"
            ) from None


def _owner(stack: Path) -> str:
    try:
        content = json.loads(stack.read_text(encoding="utf-8"))
        return f"process {content['pid']}, {content['api']}"
    except (OSError, ValueError, KeyError):
        return "it is just starting"
