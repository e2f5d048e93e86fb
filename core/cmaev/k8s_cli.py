"""`cmaev k8s`: training jobs as Kubernetes manifests."""

from pathlib import Path
from typing import Annotated

import typer

k8s_app = typer.Typer(no_args_is_help=True, help="Run jobs on a Kubernetes cluster.")


def register(app: typer.Typer) -> None:
    """Adds the `k8s` commands to the root command."""
    app.add_typer(k8s_app, name="k8s")


@k8s_app.callback()
def group() -> None:
    """Run jobs on a Kubernetes cluster."""


@k8s_app.command("render")
def render(
    spec: Annotated[Path, typer.Argument(help="Job specification, YAML or JSON.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="e.g. resources.nodes=2")
    ] = None,
    more_overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="The same as --set.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the objects and of the run; default: kind and hash.")
    ] = None,
    namespace: Annotated[str, typer.Option(help="Namespace of the objects.")] = "cmaev",
    image: Annotated[
        str, typer.Option(help="Trainer image; pin a digest in production.")
    ] = "cmaev-trainer:0.1.0",
    runs_claim: Annotated[
        str, typer.Option(help="Volume claim for runs, mounted at /runs.")
    ] = "cmaev-runs",
    data_claim: Annotated[
        str | None, typer.Option(help="Volume claim with videos, mounted read-only at /data.")
    ] = None,
    retries: Annotated[int, typer.Option(help="Failures per node that are tried again.")] = 6,
    grace_seconds: Annotated[
        int, typer.Option(help="Time for a last checkpoint when the pod is told to stop.")
    ] = 300,
    suspend: Annotated[
        bool, typer.Option("--suspend", help="Create the job without starting it.")
    ] = False,
) -> None:
    """Print the manifest of a job; `… | kubectl apply -f -` runs it."""
    from cmaev_spec.job import load_job
    from cmaev_spec.manifest import Placement, default_name, to_yaml
    from cmaev_spec.manifest import render as render_job

    job = load_job(spec, overrides=[*(overrides or ()), *(more_overrides or ())])
    placement = Placement(
        name=default_name(job) if name is None else name,
        namespace=namespace,
        image=image,
        runs_claim=runs_claim,
        data_claim=data_claim,
        retries=retries,
        grace_seconds=grace_seconds,
        suspend=suspend,
    )
    typer.echo(to_yaml(render_job(job, placement)), nl=False)
