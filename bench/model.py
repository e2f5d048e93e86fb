"""What a pretraining step costs beside its peers: `python -m bench.model [--parts vit,hybrid]`.

`vit` times a CMAE-V step of ViT-B against the sum of a `transformers` VideoMAE step and its forward
of all tokens, in fp32 and in bf16. `hybrid` times the hybrid with its early stages computed for
visible cells only against the same with all cells. Steps of one part take turns in one run; each is
also set against the speed of a large matrix product. Prints a Markdown table.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from bench.steps import clips, gmac_per_clip, our_step, peer_steps, tubes
from bench.timing import Work, best_seconds, hardware, matmul_flops_per_second

from cmaev.models import create_pretraining_model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    seconds: float
    gmac: float | None
    """Multiply-adds of a clip in units of 10^9."""
    ceiling: float
    """FLOP/s of a large matrix product in the step's precision."""
    peer: float
    """Seconds of what the step is set against."""

    def cells(self, batch: int) -> tuple[str, ...]:
        """The line, as text."""
        gmac = share = ""
        if self.gmac is not None:
            gmac = f"{self.gmac:.4g}"
            share = f"{2e9 * self.gmac * batch / self.seconds / self.ceiling:.0%}"
        over = f"{self.seconds / self.peer:.2f}"
        return self.name, gmac, f"{self.seconds / batch:.4g}", share, over


def vit_rows(name: str, batch: int, *, rounds: int, device: torch.device) -> list[Row]:
    """CMAE-V in fp32 and bf16 over the two halves of it that `transformers` has."""
    gmac = gmac_per_clip(name)
    model = create_pretraining_model(name).to(device)
    views, mask = clips(name, batch, device=device), tubes(model, batch).to(device)
    peers = peer_steps(name, views[0], mask)
    ours = {f"CMAE-V, {precision}": precision for precision in DTYPES}
    candidates = {
        title: our_step(model, views, mask, dtype=DTYPES[precision])
        for title, precision in ours.items()
    }
    seconds = best_seconds({**peers, **candidates}, device=device, rounds=rounds)
    ceilings = {name: matmul_flops_per_second(device, dtype) for name, dtype in DTYPES.items()}
    both = sum(seconds[title] for title in peers)
    return [
        Row(f"transformers, fp32: {title}", seconds[title], None, ceilings["fp32"], both)
        for title in peers
    ] + [Row(title, seconds[title], gmac, ceilings[ours[title]], both) for title in ours]


def hybrid_rows(name: str, batch: int, *, rounds: int, device: torch.device) -> list[Row]:
    """Sparse early stages over dense ones, in fp32."""
    forms = {"dense": False, "sparse": True}
    gmac = {form: gmac_per_clip(name, sparse_stages=sparse) for form, sparse in forms.items()}
    candidates: dict[str, Work] = {}
    for form, sparse in forms.items():
        model = create_pretraining_model(name, sparse_stages=sparse).to(device)
        views, mask = clips(name, batch, device=device), tubes(model, batch).to(device)
        candidates[form] = our_step(model, views, mask)
    seconds = best_seconds(candidates, device=device, rounds=rounds)
    ceiling = matmul_flops_per_second(device, torch.float32)
    return [
        Row(f"hybrid, {form} stages, fp32", seconds[form], gmac[form], ceiling, seconds["dense"])
        for form in forms
    ]


def table(rows: list[Row], batch: int) -> str:
    """Rows as Markdown."""
    head = ("step", "GMAC per clip", "s per clip", "share of matrix product", "over its peer")
    lines = [head, ("---",) * len(head), *(row.cells(batch) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PARTS = {"vit": vit_rows, "hybrid": hybrid_rows}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--vit", default="cmaev_vit_base_patch16_224")
    parser.add_argument("--hybrid", default="cmaev_convvit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    device, names = (
        torch.device(arguments.device),
        {"vit": arguments.vit, "hybrid": arguments.hybrid},
    )
    print(f"{hardware(device)}; batch {arguments.batch}\n")
    rows: list[Row] = []
    for part in arguments.parts.split(","):
        rows += PARTS[part](names[part], arguments.batch, rounds=arguments.rounds, device=device)
    print(table(rows, arguments.batch))


if __name__ == "__main__":
    main()
