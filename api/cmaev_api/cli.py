"""The commands that the control plane adds to `cmaev`."""

import typer

from cmaev_api.commands.doctor import doctor
from cmaev_api.commands.jobs import jobs_app, submit
from cmaev_api.commands.keys import keys_app
from cmaev_api.commands.models import classify, models_app
from cmaev_api.commands.serve import serve
from cmaev_api.demo import cli as demo
from cmaev_api.local import cli as local


def register(app: typer.Typer) -> None:
    """Adds the commands; what they need is imported when they run."""
    app.command()(submit)
    app.command()(classify)
    app.command()(doctor)
    app.command()(serve)
    app.add_typer(jobs_app, name="jobs")
    app.add_typer(models_app, name="models")
    app.add_typer(keys_app, name="keys")
    local.register(app)
    demo.register(app)
