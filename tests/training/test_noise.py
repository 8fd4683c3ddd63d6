"""NEFTune's noise: as strong for an example in a row as in a padded batch."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from iepile_cli.training.noise import Neftune  # noqa: E402
from iepile_cli.training.rows import PaddedCollator, RowCollator, token_lengths  # noqa: E402

WIDTH, ALPHA = 64, 5.0
COMMON = list(range(20, 40))
EXAMPLES = [
    {"input_ids": ids, "labels": [-100] * 25 + ids[25:]}
    for ids in ([*COMMON, *range(50, 70)], [*COMMON, *range(80, 140)])
]


class Model(torch.nn.Module):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(200, WIDTH)

    def get_input_embeddings(self) -> Any:
        return self.embedding


def test_a_token_knows_how_long_its_example_is() -> None:
    row = token_lengths(RowCollator()(EXAMPLES))
    # The twenty tokens they share are the first one's.
    assert row.tolist() == [[40] * 40 + [80] * 60]
    flash = token_lengths(RowCollator(shares=False)(EXAMPLES))
    assert flash.tolist() == [[40] * 40 + [80] * 80]
    padded = token_lengths(PaddedCollator(0)(EXAMPLES))
    assert padded.shape == (2, 80)
    assert padded[:, 0].tolist() == [40, 80]


def test_noise_is_weaker_for_longer_examples_and_none_without_training() -> None:
    model = Model()
    noise = Neftune(model, ALPHA)
    batch = RowCollator()(EXAMPLES)
    noise.lengths = token_lengths(batch)
    model.eval()
    plain = model.embedding(batch["input_ids"])
    model.train()
    added = (model.embedding(batch["input_ids"]) - plain).abs().detach()[0]
    for part, length in ((added[:40], 40), (added[40:], 80)):
        bound = ALPHA / (length * WIDTH) ** 0.5
        assert 0.98 * bound < float(part.max()) <= bound * 1.0001
        assert float(part.mean()) == pytest.approx(bound / 2, rel=0.05)
