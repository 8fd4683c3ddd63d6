"""Which examples make a batch: exact steps, batches by tokens, evaluation whatever the batch."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from training.runs import Recorder, run

from iepile_cli.errors import UsageError
from iepile_cli.training.attention import collator_for
from iepile_cli.training.batch import Batch, Estimate, choose_batch
from iepile_cli.training.dataset import Report
from iepile_cli.training.device import Device
from iepile_cli.training.finetune import largest_batch, train
from iepile_cli.training.options import TrainOptions
from iepile_cli.training.packing import BatchSampler
from iepile_cli.training.prepare import dry_run

replace = dataclasses.replace
SMALL = Estimate(1, 1, 1 << 20, 1 << 20, 1000, 1000)
REPORT = Report(1000, 100_000, 10_000, 200, 100, 0, 0)


def chosen(options: TrainOptions, processes: int = 1) -> Batch:
    return choose_batch(SMALL, options, Device("cpu", "fp32"), REPORT, processes, processes)


@pytest.mark.parametrize(
    ("asked", "processes"), [(24, 1), (48, 1), (7, 1), (32, 1), (48, 3), (40, 8), (1, 1)]
)
def test_a_step_has_exactly_the_examples_asked_for(asked: int, processes: int) -> None:
    batch = chosen(TrainOptions(global_batch=asked), processes)
    assert batch.per_step == asked
    # As many at once as a CPU gains from.
    assert batch.examples * REPORT.longest <= 4096


@pytest.mark.parametrize(
    ("asked", "processes", "nearest"), [(20, 8, "16 or 24"), (3, 8, "8"), (10, 4, "8 or 12")]
)
def test_a_step_that_processes_cannot_share_is_refused(
    asked: int, processes: int, nearest: str
) -> None:
    with pytest.raises(UsageError, match=f"--global-batch {asked} cannot be divided") as caught:
        chosen(TrainOptions(global_batch=asked), processes)
    assert caught.value.hint == f"nearest: {nearest}"


def test_the_usual_step_is_what_processes_can_share() -> None:
    assert chosen(TrainOptions()).per_step == 32
    assert chosen(TrainOptions(), 3).per_step == 33
    assert chosen(TrainOptions(), 16).per_step == 32
    assert chosen(TrainOptions(grad_accum=4)).accumulated == 4
    assert chosen(TrainOptions(grad_accum=4)).per_step == 32


# --------------------------------------------------------------------------------------- sampler


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("how", [{"examples": 4}, {"tokens": 300}])
def test_every_example_is_seen_once_an_epoch_by_one_process(
    processes: int, how: dict[str, int]
) -> None:
    lengths = [random.Random(1).randrange(5, 120) for _ in range(101)]
    samplers = [
        BatchSampler(lengths, **how, seed=3, rank=rank, processes=processes)
        for rank in range(processes)
    ]
    for epoch in range(2):
        for one in samplers:
            one.set_epoch(epoch)
        rounds = list(zip(*samplers, strict=True))
        assert len(rounds) == len(samplers[0])
        seen = [at for batches in rounds for batch in batches for at in batch]
        assert set(seen) == set(range(101))
        # Only a last round with fewer examples than processes has some again.
        assert len(seen) == 101 if processes < 8 else len(seen) < 101 + processes
    orders = []
    for epoch in range(2):
        samplers[0].set_epoch(epoch)
        orders.append(list(samplers[0]))
    assert orders[0] != orders[1] or len(orders[0]) == 1


def test_batches_by_tokens_are_full_and_of_like_lengths() -> None:
    random_ = random.Random(2)
    lengths = [random_.randrange(10, 500) for _ in range(4000)]
    lengths[7] = 5000
    batches = list(BatchSampler(lengths, tokens=4096, seed=1, processes=4, rank=2))
    others = list(BatchSampler(lengths, tokens=4096, seed=1, processes=4, rank=0))
    sizes = [sum(lengths[at] for at in batch) for batch in batches]
    assert max(sizes) <= 5000
    assert sum(sizes) / len(sizes) > 0.9 * 4096
    spread = [
        max(lengths[at] for at in batch) - min(lengths[at] for at in batch) for batch in batches
    ]
    assert sum(spread) / len(spread) < 60
    # Every process has about as much to do in a round.
    for mine, theirs in zip(batches[:-1], others[:-1], strict=True):
        apart = abs(sum(lengths[at] for at in mine) - sum(lengths[at] for at in theirs))
        assert apart < 1000 or 7 in mine + theirs


def test_fewer_examples_than_processes_are_repeated() -> None:
    found = [list(BatchSampler([5, 5], examples=2, rank=rank, processes=4)) for rank in range(4)]
    assert [len(batches) for batches in found] == [1] * 4
    assert {at for batches in found for batch in batches for at in batch} == {0, 1}


def test_a_run_by_tokens_learns_and_goes_on_as_if_not_interrupted(
    options: TrainOptions, tmp_path: Path
) -> None:
    import signal

    from iepile_cli.training.reporting import Stopped

    options = replace(options, batch_size="auto", tokens_per_batch=600, lora_dropout=0.0)
    plan, _ = dry_run(options)
    result, whole = run(replace(options, output=str(tmp_path / "whole")))
    assert result.steps == plan.steps > 4
    assert whole.losses[result.steps] < whole.losses[1]

    class Interrupting(Recorder):
        def step(self, record: Any) -> None:
            super().step(record)
            if record["step"] == plan.steps // 2 + 1:
                signal.raise_signal(signal.SIGTERM)

    first = Interrupting()
    with pytest.raises(Stopped):
        train(options, reporter=first)
    _, rest = run(replace(options, resume=True))
    assert {**first.losses, **rest.losses} == pytest.approx(whole.losses, rel=1e-6)


# ------------------------------------------------------------------------------------ evaluation


def test_the_held_out_loss_does_not_depend_on_the_batch(
    options: TrainOptions, tmp_path: Path
) -> None:
    starts = []
    for size in ("3", "8", "1"):
        folder = str(tmp_path / size)
        _, seen = run(
            replace(options, output=folder, batch_size=size, val_size="8", max_steps=1, seed=5)
        )
        starts.append(next(row["eval_loss"] for row in seen.records if row["step"] == 0))
    assert starts == pytest.approx([starts[0]] * 3, rel=1e-5)


def test_checkpoints_are_saved_as_asked_beside_those_of_evaluations(options: TrainOptions) -> None:
    run(replace(options, val_size="8", save_every=3, keep_checkpoints=9))
    folder = Path(options.output, "checkpoints")
    # 16 examples in batches of 4: an evaluation after steps 4 and 8.
    numbers = sorted(int(path.name.partition("-")[2]) for path in folder.iterdir())
    assert numbers == [3, 4, 6, 8]


def test_some_lines_of_small_data_are_held_out(options: TrainOptions, tmp_path: Path) -> None:
    plan, _ = dry_run(replace(options, val_size="auto"))
    assert plan.held_out is not None
    assert len(plan.held_out) >= 2
    assert "held out" in plan.summary()
    assert [TrainOptions().held_out(count) for count in (19, 20, 300, 5000, 5001)] == [
        *(0, 4, 30, 100, 0)
    ]


def test_a_result_is_not_worse_than_the_adapter_it_went_on_from(
    options: TrainOptions, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    run(options)
    # At this rate nothing but harm is done.
    worse = replace(
        options,
        adapter=options.output,
        output=str(tmp_path / "worse"),
        template="",
        val_size="8",
        learning_rate=100.0,
        warmup=0.0,
        max_grad_norm=0.0,
        optim="sgd",
        eval_every=2,
        max_steps=4,
    )
    result, seen = run(worse)
    assert any("the result is the adapter it went on from" in note for note in seen.notes)
    assert result.best == result.start
    before, after = (
        load_file(Path(folder, "adapter_model.safetensors"))
        for folder in (options.output, worse.output)
    )
    assert all(torch.equal(after[name], rows) for name, rows in before.items())


def test_the_largest_batch_is_found_by_trying() -> None:
    """On a model that runs out of memory above a number of tokens, as a GPU would."""
    from transformers import LlamaConfig, LlamaForCausalLM

    class Dataset:
        lengths = (9, 30, 20, 30) * 8

        def __len__(self) -> int:
            return len(self.lengths)

        def __getitem__(self, row: int) -> dict[str, list[int]]:
            ids = list(range(2, 2 + self.lengths[row]))
            return {"input_ids": ids, "labels": ids}

    class Limited(LlamaForCausalLM):  # type: ignore[misc]
        def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **more: Any) -> Any:
            if input_ids.numel() > 200:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return super().forward(input_ids, logits_to_keep=logits_to_keep, **more)

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    model = Limited(LlamaConfig(vocab_size=64, num_hidden_layers=1, **shape))
    dataset: Any = Dataset()
    collator = collator_for(model)
    # Labels on the whole examples: nothing is shared, a row has 30 tokens for each.
    assert 4 <= largest_batch(model, collator, dataset, 32, Device("cpu", "fp32")) <= 6
    assert all(weight.grad is None for weight in model.parameters())
