"""`cmaev doctor`: what works and what does not."""

from typing import TYPE_CHECKING, Annotated

import typer

from cmaev_spec.exits import EXIT_FAILED, BadInput

if TYPE_CHECKING:
    from cmaev_api.system.schemas import SystemStatus

GIB = 1 << 30
LEAST_FREE_BYTES = 5 * GIB


def doctor(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Check the control plane and the parts it works with."""
    import json

    from cmaev_api.commands.output import echo_table

    checks = _checks()
    if as_json:
        items = [{"check": name, "ok": ok, "detail": detail} for name, ok, detail in checks]
        typer.echo(json.dumps(items, indent=2))
    else:
        rows = [[name, "ok" if ok else "PROBLEM", detail] for name, ok, detail in checks]
        echo_table(["check", "result", "detail"], rows)
    if not all(ok for _name, ok, _detail in checks):
        raise typer.Exit(EXIT_FAILED)


def _checks() -> list[tuple[str, bool, str]]:
    from cmaev_api.client import ApiError, Client

    try:
        with Client.from_environment() as client:
            status = client.status()
    except BadInput as error:
        return [("key", False, str(error))]
    except ApiError as error:
        refused = error.problem.status in {401, 403}
        return [("key" if refused else "api", False, str(error))]
    return [
        ("api", True, f"{client.url}, version {status.version}"),
        ("key", True, "accepted"),
        *_part_checks(status),
    ]


def _part_checks(status: "SystemStatus") -> list[tuple[str, bool, str]]:
    serving = status.serving
    agent = status.serving_detail or ""
    if serving is not None:
        agent = f"{serving.backend} {serving.detail}".strip()
    return [
        ("database", status.readiness.database == "ok", status.readiness.database),
        ("broker", status.readiness.broker == "ok", status.broker_detail or "ok"),
        ("serving", serving is not None and serving.ready, agent),
        (
            "disk",
            status.free_bytes >= LEAST_FREE_BYTES,
            f"{status.free_bytes / GIB:.0f} GiB free at {status.runs_dir}",
        ),
        ("workers", status.workers > 0, _workers(status)),
    ]


def _workers(status: "SystemStatus") -> str:
    if status.workers == 0:
        return "none answers, so jobs stay queued; `cmaev up` starts one"
    return f"{status.workers} answer, {status.leased_attempts} attempts under way"
