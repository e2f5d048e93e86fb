import re

import pytest
from bench.model import main
from bench.steps import gmac_per_clip


@pytest.mark.slow
def test_every_step_is_set_against_its_peer(capsys):
    models = ["--vit", "cmaev_vit_nano_patch8_32", "--hybrid", "cmaev_convvit_nano_patch8_32"]
    main([*models, "--batch", "2", "--rounds", "1", "--device", "cpu"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "|" in line]
    figures = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[2:]}
    assert len(figures) == 6
    for name, (gmac, seconds, share, over) in figures.items():
        assert float(seconds) > 0
        assert float(over) > 0
        if "transformers" not in name:
            assert float(gmac) > 0
            assert re.fullmatch(r"\d+%", share)


def test_multiply_adds_are_those_of_the_method():
    """Method.md 2.4: about 287 for ViT-B, 519 for the dense hybrid, 346 for the sparse one."""
    vit = gmac_per_clip("cmaev_vit_base_patch16_224")
    assert 280 < vit < 290
    hybrid = "cmaev_convvit_base_patch16_224"
    assert 505 < gmac_per_clip(hybrid, sparse_stages=False) < 525
    assert 335 < gmac_per_clip(hybrid, sparse_stages=True) < 350
