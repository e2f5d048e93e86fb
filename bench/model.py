"""What a pretraining step costs beside its peers: `python -m bench.model [--parts vit,hybrid]`.

`vit` times a CMAE-V step of ViT-B against the sum of a `transformers` VideoMAE step and its forward
of all tokens, in fp32 and in bf16. `hybrid` times the hybrid with its early stages computed for
visible cells only against the same with all cells. Steps of one part take turns in one run; each is
also set against the speed of a large matrix product. Prints a Markdown table.
"""

import argparse
from dataclasses import dataclass

import torch
from bench.steps import clips, gmac_per_clip, our_step, peer_steps, tubes
from bench.timing import Work, best_seconds, hardware, matmul_flops_per_second

from cmaev.models import create_pretraining_model

VIT = "cmaev_vit_base_patch16_224"
HYBRID = "cmaev_convvit_base_patch16_224"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    seconds: float
    gmac: float | None
    """Multiply-adds of a clip in units of 10^9."""
    ceiling: float
    """FLOP/s of a large matrix product in the step's precision."""
    over: float
    """Time over that of the peer."""

    def cells(self, batch: int) -> tuple[str, ...]:
        """The line, as text."""
        share = (
            ""
            if self.gmac is None
            else f"{2e9 * self.gmac * batch / self.seconds / self.ceiling:.0%}"
        )
        gmac = "" if self.gmac is None else f"{self.gmac:.1f}"
        return (self.name, gmac, f"{self.seconds / batch:.3f}", share, f"{self.over:.2f}")


def vit_rows(batch: int, *, rounds: int, device: torch.device) -> list[Row]:
    """CMAE-V in fp32 and bf16 over the two halves of it that `transformers` has."""
    model = create_pretraining_model(VIT).to(device)
    views, mask = clips(VIT, batch, device=device), tubes(model, batch).to(device)
    peers = peer_steps(views[0], mask)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    ours = {
        f"CMAE-V, {name}": our_step(model, views, mask, dtype=dtype)
        for name, dtype in dtypes.items()
    }
    seconds = best_seconds({**peers, **ours}, device=device, rounds=rounds)
    ceilings = {name: matmul_flops_per_second(device, dtype) for name, dtype in dtypes.items()}
    peer = sum(seconds[name] for name in peers)
    gmac = gmac_per_clip(VIT)
    rows = [
        Row(
            f"transformers, fp32: {name}",
            seconds[name],
            None,
            ceilings["fp32"],
            seconds[name] / peer,
        )
        for name in peers
    ]
    return rows + [
        Row(
            f"CMAE-V, {name}",
            seconds[f"CMAE-V, {name}"],
            gmac,
            ceilings[name],
            seconds[f"CMAE-V, {name}"] / peer,
        )
        for name in dtypes
    ]


def hybrid_rows(batch: int, *, rounds: int, device: torch.device) -> list[Row]:
    """Sparse early stages over dense ones, in fp32."""
    forms = {"dense": False, "sparse": True}
    candidates: dict[str, Work] = {}
    for form, sparse in forms.items():
        model = create_pretraining_model(HYBRID, sparse_stages=sparse).to(device)
        views, mask = clips(HYBRID, batch, device=device), tubes(model, batch).to(device)
        candidates[form] = our_step(model, views, mask)
    seconds = best_seconds(candidates, device=device, rounds=rounds)
    ceiling = matmul_flops_per_second(device, torch.float32)
    return [
        Row(
            f"hybrid, {form} stages, fp32",
            seconds[form],
            gmac_per_clip(HYBRID, sparse_stages=sparse),
            ceiling,
            seconds[form] / seconds["dense"],
        )
        for form, sparse in forms.items()
    ]


PARTS = {"vit": vit_rows, "hybrid": hybrid_rows}


def table(rows: list[Row], batch: int) -> str:
    """Rows as Markdown."""
    head = ("step", "GMAC per clip", "s per clip", "share of matrix product", "over its peer")
    lines = [head, ("---",) * len(head), *(row.cells(batch) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(f"{hardware(device)}; batch {arguments.batch}\n")
    rows: list[Row] = []
    for part in arguments.parts.split(","):
        rows += PARTS[part](arguments.batch, rounds=arguments.rounds, device=device)
    print(table(rows, arguments.batch))


if __name__ == "__main__":
    main()
