"""API keys: made here, shown once, kept as a hash."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from cmaev_api.db import Database
from cmaev_api.settings import Settings
from cmaev_api.tables import ApiKey, utc_now
from cmaev_spec.exits import BadInput
from cmaev_spec.files import write_atomic

Scope = Literal["admin", "worker"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SECRET_BYTES = 32
ADMIN_KEY_FILE = "api-key"
WORKER_KEY_FILE = "worker-key"


class KeyRead(BaseModel):
    """A key as it may be shown: without its secret, which is not kept."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    revoked_at: datetime | None


def create_key(session: Session, *, name: str, scopes: Sequence[Scope]) -> str:
    """Makes a key and returns it; only its hash is kept, so this is the one time it is seen."""
    secret = f"cmaev_{secrets.token_urlsafe(SECRET_BYTES)}"
    _store(session, secret, name=name, scopes=scopes)
    return secret


def find_key(session: Session, secret: str) -> ApiKey | None:
    """The live key that `secret` is, if any; compares hashes in constant time."""
    digest = _digest(secret)
    key = session.get(ApiKey, _key_id(digest))
    if key is None or key.revoked_at is not None or not hmac.compare_digest(key.digest, digest):
        return None
    return key


def list_keys(session: Session) -> list[ApiKey]:
    """Every key, oldest first."""
    return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)))


def revoke_key(session: Session, key_id: str) -> None:
    """Ends a key at once.

    Raises:
        BadInput: if there is no such key.
    """
    key = session.get(ApiKey, key_id)
    if key is None:
        raise BadInput(f"there is no key {key_id!r}; `cmaev keys list` shows them")
    key.revoked_at = key.revoked_at or utc_now()


def ensure_keys(database: Database, settings: Settings) -> None:
    """Gives a fresh installation its keys.

    A key from the settings is stored as it is. Without one, the first start makes a key and writes
    it to a file that only the owner can read: `api-key` and `worker-key` in the state folder.
    """
    with database.write() as session:
        _ensure(session, "admin", settings.admin_key, settings.state_dir / ADMIN_KEY_FILE)
        _ensure(session, "worker", settings.worker_key, settings.state_dir / WORKER_KEY_FILE)


def _ensure(session: Session, scope: Scope, given: SecretStr | None, file: Path) -> None:
    if given is not None:
        if session.get(ApiKey, _key_id(_digest(given.get_secret_value()))) is None:
            name = f"{scope} (from the settings)"
            _store(session, given.get_secret_value(), name=name, scopes=[scope])
        return
    if any(scope in key.scopes and key.revoked_at is None for key in list_keys(session)):
        return
    # the file comes before the commit: a key without a file would lock everybody out
    write_atomic(
        file, create_key(session, name=f"{scope} (first start)", scopes=[scope]), mode=0o600
    )


def _store(session: Session, secret: str, *, name: str, scopes: Sequence[Scope]) -> None:
    digest = _digest(secret)
    session.add(
        ApiKey(
            id=_key_id(digest),
            name=name,
            digest=digest,
            scopes=list(scopes),
            created_at=utc_now(),
            revoked_at=None,
        )
    )
    session.flush()


def _digest(secret: str) -> str:
    # no slow hash: the secret has 256 random bits, so there is nothing to guess
    return hashlib.sha256(secret.encode()).hexdigest()


def _key_id(digest: str) -> str:
    return digest[:12]
