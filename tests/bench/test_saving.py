"""What a checkpoint costs, on a model that costs nothing."""

from bench.saving import main


def test_both_ways_are_measured(capsys):
    main(["--model", "cmaev_vit_nano_patch8_32", "--rounds", "1", "--device", "cpu"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "|" in line]
    figures = {row[0].strip(): [float(cell) for cell in row[1:]] for row in rows[2:]}
    assert figures.keys() == {"within the training", "beside it"}
    for waits, whole in figures.values():
        assert 0 < waits <= whole
