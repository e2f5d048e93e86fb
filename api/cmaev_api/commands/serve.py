"""`cmaev serve`: the control plane in the foreground."""

import socket

import typer

from cmaev_spec import lifeline
from cmaev_spec.exits import BadInput

DRAIN_SECONDS = 10


def serve() -> None:
    """Run the control plane; settings come from CMAEV_* variables."""
    lifeline.watch()
    import structlog
    import uvicorn

    from cmaev_api.app import create_app
    from cmaev_api.log import configure_logging
    from cmaev_api.settings import load_settings

    settings = load_settings()
    configure_logging()
    listener = listen(settings.host, settings.port)
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    host, port = listener.getsockname()[:2]
    structlog.get_logger(__name__).info(
        "listening", url=f"http://{host}:{port}", state=str(settings.state_dir)
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(1)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        BadInput: if the port is taken or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol, asyncio leaves Nagle's delay of 40 ms on every connection.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise BadInput(
            f"cannot listen on {host}:{port}: {error.strerror}; "
            "choose another with CMAEV_HOST and CMAEV_PORT"
        ) from None
    return listener
