"""Whether a service answers: each check returns what is missing, or None."""

import httpx
from celery import Celery
from redis import Redis, RedisError

_SECONDS = 2.0


def http(url: str, *, token: str | None = None) -> str | None:
    """Asks a readiness address."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.get(url, headers=headers, timeout=_SECONDS, trust_env=False)
    except httpx.TransportError as error:
        return f"no answer yet ({type(error).__name__})"
    return None if answer.is_success else f"HTTP {answer.status_code}: {answer.text[:300]}"


def redis(url: str) -> str | None:
    """Pings a Redis or Valkey."""
    try:
        with Redis.from_url(url, socket_timeout=_SECONDS) as client:
            client.ping()
    except (RedisError, OSError) as error:
        return str(error)
    return None


def worker(redis_url: str, name: str) -> str | None:
    """Pings a Celery worker through its broker."""
    with Celery("cmaev_local", broker=redis_url, set_as_current=False) as client:
        answers = client.control.ping(destination=[f"celery@{name}"], timeout=1.0, limit=1)
    return None if answers else "no answer to a ping yet"
