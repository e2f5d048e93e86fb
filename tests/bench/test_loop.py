from bench.loop import WITHIN, WORK, main, measure


def test_parts_make_up_the_whole(capsys):
    seconds = measure("cmaev_vit_nano_patch8_32", batch=2, warmup=1, steps=2, log_every=1)
    parts = sum(seconds[part] for part in (*WORK, "data wait"))
    rest = seconds["all"] - parts
    assert all(seconds[part] > 0 for part in (*WORK, *WITHIN))
    assert sum(seconds[part] for part in WITHIN) < rest < seconds["all"]
    main(["--batch", "2", "--warmup", "1", "--steps", "2"])
    out = capsys.readouterr().out
    assert out.startswith("cmaev_vit_nano_patch8_32, batch 2: ")
    assert "**the rest**" in out
