"""Exports of a tiny trained model: llama.cpp and transformers answer alike."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gguf_files import lora, random_gguf
from training.runs import run

from iepile_cli.backends import Options, Request
from iepile_cli.backends.gguf import GgufFile
from iepile_cli.backends.gguf_layout import paired, unpack_adapter
from iepile_cli.backends.llamacpp import Context, LlamaRunner, load_model
from iepile_cli.backends.scheduler import Feed
from iepile_cli.backends.tokenizers import LlamaCppTokenizer, hf_tokenizer
from iepile_cli.errors import ModelError, UsageError
from iepile_cli.models import resolve_model
from iepile_cli.models.adapter_settings import read_adapter_settings
from iepile_cli.registry import registry
from iepile_cli.templates import Template, encode
from iepile_cli.training.export import export
from iepile_cli.training.gguf_vocabulary import Vocabulary
from iepile_cli.training.model import Base
from iepile_cli.training.options import ExportOptions
from iepile_cli.training.prepare import dry_run
from iepile_cli.training.recipes import options_from

pytest.importorskip("gguf")
QUESTIONS = 20


@pytest.fixture(scope="module")
def trained(tiny: Path, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny model, with random weights that change its answers."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("trained") / "adapter"
    run(
        options_from(
            {
                "model": str(tiny),
                "data": str(lines),
                "output": str(folder),
                "template": "alpaca",
                "dtype": "fp32",
                "max_steps": 1,
                "batch_size": 4,
                "lora_r": 4,
            }
        )
    )
    weights = load_file(folder / "adapter_model.safetensors")
    torch.manual_seed(5)
    drawn = {name: 0.3 * torch.randn(rows.shape) for name, rows in weights.items()}
    save_file(drawn, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def questions(count: int) -> Iterator[str]:
    random_ = random.Random(3)
    words = ["Ann", "went", "to", "Rome", "again", "北京", "and", "Oslo", ",", "says", "Zoé"]
    for _ in range(count):
        yield " ".join(random_.choices(words, k=12))


def spoken(folder: Path, template: Template, adapter: Path | None = None) -> list[list[int]]:
    """What transformers says, greedily, token ids."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from iepile_cli.backends.tokenizers import HFTokenizer

    own = (folder / CODE.name).is_file()
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=own
    )
    if adapter:
        model = peft.PeftModel.from_pretrained(model, str(adapter))
    tokenizer = HFTokenizer(hf_tokenizer(folder))
    said = []
    for question in questions(QUESTIONS):
        ids = torch.tensor([encode(template.prompt(question), tokenizer)])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=1,
        )
        said.append([int(i) for i in out[0, ids.shape[1] :] if i != 1])
    return said


def spoken_by_llama(
    path: Path, template: Template, tokenizer: Any, adapters: tuple[Path, ...] = ()
) -> list[str]:
    with closing(
        LlamaRunner(path, Options(adapters=tuple(map(str, adapters)), threads=1))
    ) as runner:
        requests = [Request(template.prompt(text), None, 12) for text in questions(QUESTIONS)]
        return [answer.text for answer in runner.generate(requests)]


def texts(said: list[list[int]], tokenizer: Any) -> list[str]:
    # The backend takes leading white space off an answer.
    return [tokenizer.decode(ids, skip_special_tokens=True).lstrip() for ids in said]


def agreeing(left: list[str], right: list[str]) -> int:
    """How many answers are the same; weights drawn at random leave ties for rounding to break."""
    return sum(a == b for a, b in zip(left, right, strict=True))


def test_gguf_files_answer_as_transformers_does(tiny: Path, trained: Path, tmp_path: Path) -> None:
    template = registry().get("template", "alpaca")
    tokenizer = hf_tokenizer(tiny)
    wanted = texts(spoken(tiny, template, trained), tokenizer)
    assert len(set(wanted)) > 5
    merged, whole, base = (tmp_path / name for name in ("merged", "m.gguf", "base.gguf"))
    options = ExportOptions("merged", "", model=str(tiny), adapter=(str(trained),))
    export(dataclasses.replace(options, to="merged", output=str(merged)))
    assert texts(spoken(merged, template), tokenizer) == wanted
    settings = read_adapter_settings(merged)
    assert settings is not None
    assert settings.template == "alpaca"
    # Whoever may read the configuration may read the weights.
    modes = {(merged / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1
    export(dataclasses.replace(options, to="gguf", output=str(whole), quantise="f32"))
    assert agreeing(spoken_by_llama(whole, template, tokenizer), wanted) >= 0.9 * QUESTIONS
    export(
        ExportOptions(
            model=str(tiny), to="gguf", output=str(base), quantise="f32", template="alpaca"
        )
    )
    plain = texts(spoken(tiny, template), tokenizer)
    assert agreeing(spoken_by_llama(base, template, tokenizer), plain) >= 0.9 * QUESTIONS
    assert agreeing(plain, wanted) < 0.2 * QUESTIONS
    adapter = tmp_path / "a.gguf"
    export(dataclasses.replace(options, to="gguf-adapter", output=str(adapter)))
    over = spoken_by_llama(base, template, tokenizer, (adapter,))
    assert agreeing(over, wanted) >= 0.8 * QUESTIONS


def test_a_gguf_adapter_comes_back_as_it_was(tiny: Path, trained: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    path = tmp_path / "a.gguf"
    export(
        ExportOptions(model=str(tiny), adapter=(str(trained),), to="gguf-adapter", output=str(path))
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny))
    folder = unpack_adapter(path, model, tmp_path / "back")
    before, after = (load_file(at / "adapter_model.safetensors") for at in (trained, folder))
    assert after.keys() == before.keys()
    for name, rows in before.items():
        torch.testing.assert_close(after[name], rows, atol=1e-3, rtol=1e-3)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)
    assert read_adapter_settings(folder) == read_adapter_settings(trained)
    template = registry().get("template", "alpaca")
    said, wanted = spoken(tiny, template, folder), spoken(tiny, template, trained)
    assert sum(a == b for a, b in zip(said, wanted, strict=True)) >= 0.9 * QUESTIONS

    other = AutoConfig.from_pretrained(tiny, num_hidden_layers=1)
    with torch.device("meta"):
        smaller = AutoModelForCausalLM.from_config(other)
    with pytest.raises(ModelError, match="7 of its weights are not in it"):
        unpack_adapter(path, smaller, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    whole = tmp_path / "whole.gguf"
    export(ExportOptions(model=str(tiny), to="gguf", output=str(whole), template="alpaca"))
    for wrong in (whole, tiny / "config.json"):
        with pytest.raises(ModelError, match=r"not a (LoRA adapter in GGUF|GGUF file)"):
            unpack_adapter(wrong, model, tmp_path / "none")


def test_a_gguf_adapter_can_be_gone_on_from(
    tiny: Path, trained: Path, lines: Path, tmp_path: Path
) -> None:
    path, output = tmp_path / "a.gguf", tmp_path / "more"
    export(
        ExportOptions(model=str(tiny), adapter=(str(trained),), to="gguf-adapter", output=str(path))
    )
    run(
        options_from(
            {
                "model": str(tiny),
                "adapter": str(path),
                "data": str(lines),
                "output": str(output),
                "dtype": "fp32",
                "max_steps": 1,
                "batch_size": 4,
                "learning_rate": 1e-9,
            }
        )
    )
    from safetensors.torch import load_file

    before, after = (load_file(at / "adapter_model.safetensors") for at in (trained, output))
    assert after.keys() == before.keys()
    assert all((after[name] - rows).abs().max() < 2e-3 for name, rows in before.items())


def test_a_trained_model_is_exported_from_its_gguf_base_too(
    tiny: Path, trained: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base.gguf"
    export(
        ExportOptions(
            model=str(tiny), to="gguf", output=str(base), quantise="f32", template="alpaca"
        )
    )
    whole, direct = tmp_path / "whole.gguf", tmp_path / "direct.gguf"
    options = ExportOptions("gguf", "", adapter=(str(trained),), quantise="f16", template="alpaca")
    export(dataclasses.replace(options, model=str(base), output=str(whole)))
    export(dataclasses.replace(options, model=str(tiny), output=str(direct)))
    template, tokenizer = registry().get("template", "alpaca"), hf_tokenizer(tiny)
    said = [spoken_by_llama(path, template, tokenizer) for path in (whole, direct)]
    # The base file's weights went through 16 bits on their way.
    assert agreeing(*said) >= 0.9 * QUESTIONS


@pytest.mark.parametrize(("kind", "largest"), [("q8_0", 0.7), ("q4_0", 0.6)])
def test_quantised_files_are_smaller_and_open(
    tiny: Path, trained: Path, tmp_path: Path, kind: str, largest: float
) -> None:
    options = ExportOptions("gguf", "", model=str(tiny), adapter=(str(trained),))
    full, small = tmp_path / "full.gguf", tmp_path / "small.gguf"
    export(dataclasses.replace(options, output=str(full), quantise="f32"))
    export(dataclasses.replace(options, output=str(small), quantise=kind))
    assert small.stat().st_size < largest * full.stat().st_size
    assert len(spoken_by_llama(small, registry().get("template", "alpaca"), None)) == QUESTIONS


def test_an_ollama_folder_says_what_was_trained(tiny: Path, trained: Path, tmp_path: Path) -> None:
    made = tmp_path / "ollama"
    export(ExportOptions(model=str(tiny), adapter=(str(trained),), to="ollama", output=str(made)))
    assert {path.name for path in made.iterdir()} == {"Modelfile", "model.gguf"}
    settings = read_adapter_settings(made / "model.gguf")
    assert settings is not None
    assert (settings.template, settings.method) == ("alpaca", "merged")
    text = (made / "Modelfile").read_text(encoding="utf-8")
    assert "FROM ./model.gguf\n" in text
    assert (
        'TEMPLATE """Below is an instruction that describes a task. Write a response that '
        "appropriately completes the request.\n\n### Instruction:\n{{ .Prompt }}\n\n"
        '### Response:\n{{ .Response }}</s>"""\n' in text
    )
    assert 'PARAMETER stop "</s>"' in text
    # Ollama's own defaults punish repeated names and cut prompts at its short context.
    assert "PARAMETER repeat_penalty 1\n" in text
    assert "PARAMETER num_ctx 512\n" in text


def sentencepiece_like(folder: Path, merges: list[str], ids: list[str]) -> Base:
    """A tokenizer with byte fallback; its merged tokens have their ids in the order of ``ids``."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted({*"".join(merges).replace(" ", ""), *"▁他在上."})
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *ids]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: number for number, name in enumerate(names)},
            merges=[tuple(merge.split(" ")) for merge in merges],
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return Base("made", folder, folder, (), registry().get("template", "alpaca"))


def in_llama_cpp(base: Base, folder: Path) -> LlamaCppTokenizer:
    import gguf

    path = folder / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    size = len(hf_tokenizer(base.folder).get_vocab())
    Vocabulary(base, folder, size).write(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return LlamaCppTokenizer.open(path)


def test_merges_of_a_sentencepiece_tokenizer_do_not_go_by_the_ids(tmp_path: Path) -> None:
    # By the ids 京大 would come first, and nothing be left of 北京 and 大学.
    base = sentencepiece_like(tmp_path, ["北 京", "大 学", "京 大"], ["京大", "大学", "北京"])
    ours, theirs = hf_tokenizer(tmp_path), in_llama_cpp(base, tmp_path)
    for text in ("北京大学", "他在北京大学上学.", "京大", "é 北 京"):
        wanted = ours(text, add_special_tokens=False).input_ids
        assert theirs.text(text) == wanted
    assert ours.convert_ids_to_tokens(theirs.text("北京大学")) == ["▁", "北京", "大学"]


def test_a_sentencepiece_tokenizer_that_llama_cpp_cannot_follow_is_refused(tmp_path: Path) -> None:
    # Of a, b, c the pair b c comes first, and a bc is no pair; llama.cpp would make abc of it.
    base = sentencepiece_like(tmp_path, ["b c", "a b", "ab c"], ["bc", "ab", "abc"])
    with pytest.raises(ModelError, match="cuts text in none of its ways"):
        in_llama_cpp(base, tmp_path)


def test_query_rows_are_reordered_in_pairs() -> None:
    import numpy as np

    rows = np.arange(8, dtype=np.float32).reshape(8, 1)
    assert paired(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_what_cannot_be_exported_is_refused_with_a_line(
    tiny: Path, trained: Path, tmp_path: Path
) -> None:
    options = ExportOptions(
        "gguf-adapter", str(tmp_path / "x.gguf"), model=str(tiny), adapter=(str(trained),)
    )
    with pytest.raises(UsageError, match="--to nonsense"):
        export(dataclasses.replace(options, to="nonsense"))
    said: list[str] = []
    with pytest.raises(UsageError, match="not a type of llama"):
        export(dataclasses.replace(options, to="gguf", quantise="q99"), note=said.append)
    assert said == []
    with pytest.raises(UsageError, match="needs an --adapter"):
        export(dataclasses.replace(options, adapter=()))
    with pytest.raises(UsageError, match=r"name ends in \.gguf"):
        export(dataclasses.replace(options, output=str(tmp_path / "x")))
    with pytest.raises(UsageError, match="takes one adapter"):
        export(dataclasses.replace(options, adapter=(str(trained),) * 2))
    (tmp_path / "x.gguf").write_text("there")
    with pytest.raises(UsageError, match="is there already"):
        export(options)
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken, ignore=shutil.ignore_patterns("checkpoints"))
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="no adapter_model"):
        export(dataclasses.replace(options, adapter=(str(broken),), overwrite=True))
    assert (tmp_path / "x.gguf").read_text() == "there"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_gguf_adapter_brings_its_template_and_base(
    tiny: Path, trained: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "a.gguf"
    export(ExportOptions(adapter=(str(trained),), to="gguf-adapter", output=str(adapter)))
    assert read_adapter_settings(adapter) == read_adapter_settings(trained)
    found = resolve_model(None, [str(adapter)])
    assert (found.template, found.path) == ("alpaca", tiny)


def test_files_of_others_have_no_settings(tmp_path: Path, trained: Path) -> None:
    assert read_adapter_settings(trained.parent) is None
    for content in (b"", b"GGUF", b"GGUF" + b"\xff" * 60, bytes(200)):
        (tmp_path / "x.gguf").write_bytes(content)
        assert read_adapter_settings(tmp_path / "x.gguf") is None
    (tmp_path / "iepile.json").write_text("[1]")
    with pytest.raises(ModelError, match="not an adapter's settings"):
        read_adapter_settings(tmp_path)


@pytest.mark.model
def test_what_is_trained_on_a_gguf_model_opens_in_llama_cpp_at_once(
    tiny: Path, lines: Path, tmp_path: Path
) -> None:
    from iepile_cli.backends.opening import open_model
    from iepile_cli.training.recipes import options_from

    base, out = tmp_path / "base.gguf", tmp_path / "out"
    export(ExportOptions(model=str(tiny), to="gguf", output=str(base), template="alpaca"))
    table = {"model": str(base), "data": str(lines), "output": str(out), "dtype": "fp32"}
    run(options_from(table, {"template": "vanilla", "max_steps": 1, "batch_size": 4}))
    opened = open_model(str(base), adapters=[str(out)])
    with closing(opened.runner):
        assert opened.template.name == "vanilla"
        assert len(list(opened.runner.generate([Request(opened.template.prompt("a"), None, 4)])))
    settings = read_adapter_settings(out)
    assert settings is not None
    (out / "iepile.json").write_text(replace_hash(settings.as_json()))
    with pytest.raises(ModelError, match="with another form of the template 'vanilla'"):
        open_model(str(base), adapters=[str(out)])
    (out / "adapter.gguf").unlink()
    with pytest.raises(ModelError, match="needs the adapter as GGUF") as caught:
        open_model(str(base), adapters=[str(out)])
    assert "--to gguf-adapter" in caught.value.hint


def replace_hash(settings: str) -> str:
    """The settings of another form of the template."""
    return json.dumps({**json.loads(settings), "template_hash": "0"})


def shaped(kind: str, tiny: Path, folder: Path) -> Path:
    """The tiny model in another family's shape, with the same tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny).to_dict()
    if kind in BAICHUAN_LAYERS:
        return baichuan(BAICHUAN_LAYERS[kind], config["vocab_size"], tiny, folder)
    for key in ("model_type", "architectures", "rope_parameters", "layer_types"):
        config.pop(key, None)
    config["tie_word_embeddings"] = kind == "tied"
    torch.manual_seed(3)
    made = AutoConfig.for_model("qwen2" if kind == "qwen2" else "llama", **config)
    model = AutoModelForCausalLM.from_config(made)
    for name, weight in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    for file in tiny.glob("token*"):
        shutil.copy(file, folder)
    return folder


# llama.cpp tells Baichuan's sizes apart by their layers: 7B rotates positions, 13B has ALiBi.
BAICHUAN_LAYERS = {"baichuan-7b": 32, "baichuan-13b": 40}
CODE = Path(__file__).with_name("baichuan_code.py")


def baichuan(layers: int, vocabulary: int, tiny: Path, folder: Path) -> Path:
    """A tiny model of Baichuan 2's shape in a folder that brings its own code."""
    import torch
    from training.baichuan_code import BaichuanConfig, BaichuanForCausalLM

    torch.manual_seed(3)
    config = BaichuanConfig(vocabulary, num_hidden_layers=layers, bos_token_id=0, eos_token_id=1)
    BaichuanForCausalLM(config).save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "BaichuanConfig", "AutoModelForCausalLM": "BaichuanForCausalLM"}
    written["auto_map"] = {auto: f"{CODE.stem}.{name}" for auto, name in classes.items()}
    (folder / "config.json").write_text(json.dumps(written))
    for file in (CODE, *tiny.glob("token*")):
        shutil.copy(file, folder)
    return folder


def test_code_that_comes_with_a_model_runs_only_when_it_is_trusted(
    tiny: Path, lines: Path, tmp_path: Path
) -> None:
    model = shaped("baichuan-7b", tiny, tmp_path / "model")
    table: dict[str, Any] = {"model": str(model), "data": str(lines), "output": str(tmp_path / "o")}
    options = options_from({**table, "template": "alpaca"})
    with pytest.raises(ModelError, match="runs code that comes with it") as caught:
        dry_run(options)
    assert "--trust-remote-code" in caught.value.hint
    with (model / CODE.name).open("a", encoding="utf-8") as file:
        file.write("\nraise RuntimeError('this code is too old')\n")
    with pytest.raises(ModelError, match=r"its own code fails .*this code is too old"):
        dry_run(dataclasses.replace(options, trust_remote_code=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["untied", "tied", "qwen2", *BAICHUAN_LAYERS])
def test_the_whole_loop_from_4_bits_to_llama_cpp(
    kind: str, tiny: Path, lines: Path, tmp_path: Path
) -> None:
    """Train in 4 bits, go on, merge, export: the same answers in llama.cpp."""
    pytest.importorskip("bitsandbytes")
    model = shaped(kind, tiny, tmp_path / kind)
    table: dict[str, Any] = {
        "model": str(model),
        "data": str(lines),
        "template": "alpaca",
        "max_steps": 2,
        "batch_size": 4,
        "val_size": 0,
        "learning_rate": 0.05,
        "warmup": 0,
        "trust_remote_code": kind in BAICHUAN_LAYERS,
    }
    first, second = tmp_path / "first", tmp_path / "second"
    run(options_from(table, {"output": str(first), "bits": 4, "lora_r": 4}))
    run(options_from(table, {"output": str(second), "bits": 4, "adapter": str(first)}))
    merged, whole = tmp_path / "merged", tmp_path / "whole.gguf"
    options = ExportOptions("merged", str(merged), model=str(model), adapter=(str(second),))
    options = dataclasses.replace(options, trust_remote_code=kind in BAICHUAN_LAYERS)
    export(options)
    export(dataclasses.replace(options, to="gguf", output=str(whole), quantise="f32"))
    template, tokenizer = registry().get("template", "alpaca"), hf_tokenizer(model)
    wanted = texts(spoken(merged, template), tokenizer)
    beside = texts(spoken(model, template, second), tokenizer)
    assert agreeing(beside, wanted) >= 0.9 * QUESTIONS
    assert agreeing(texts(spoken(model, template), tokenizer), wanted) < 0.5 * QUESTIONS
    assert agreeing(spoken_by_llama(whole, template, tokenizer), wanted) >= 0.9 * QUESTIONS


@pytest.fixture(scope="module")
def gguf_parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small GGUF model with an adapter as GGUF, neither made here."""
    folder = tmp_path_factory.mktemp("parts")
    base = random_gguf(folder / "base.gguf")
    return base, lora(folder, base)[1]


def logits(path: Path, adapters: Sequence[Path] = ()) -> Any:
    import numpy as np

    context = Context(load_model(path), size=256, parallel=1, threads=1, adapters=list(adapters))
    with closing(context):
        return np.array(context.decode([Feed(0, 0, list(range(100, 140)), True)])[0])


@pytest.mark.parametrize(("kind", "apart"), [("f32", 1e-4), ("f16", 0.01), ("q8_0", 0.06)])
def test_gguf_parts_are_merged_as_they_are(
    gguf_parts: tuple[Path, Path], tmp_path: Path, kind: str, apart: float
) -> None:
    base, adapter = gguf_parts
    made = tmp_path / "whole.gguf"
    export(
        ExportOptions(
            "gguf", str(made), model=str(base), adapter=(str(adapter),), quantise=kind,
            template="alpaca",
        )
    )  # fmt: skip
    with GgufFile(made) as file:
        assert file.formats() == {kind.upper()}
    expected = logits(base, [adapter])
    assert abs(logits(made) - expected).max() < apart * abs(expected).max()
    assert abs(logits(base) - expected).max() > 0.1 * abs(expected).max()
    settings = read_adapter_settings(made)
    assert settings is not None
    assert (settings.template, settings.method) == ("alpaca", "merged")


def export_without_torch(*words: object) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None;"
        "from iepile_cli.cli.app import run; sys.exit(run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "export", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_peft_folder_is_merged_into_a_gguf_base_without_torch(
    tiny: Path, trained: Path, tmp_path: Path
) -> None:
    base, merged, expected = (tmp_path / f"{name}.gguf" for name in ("base", "merged", "expected"))
    plain = ExportOptions("gguf", str(base), model=str(tiny), quantise="f32", template="alpaca")
    export(plain)
    export(dataclasses.replace(plain, adapter=(str(trained),), output=str(expected)))
    words = ["-m", base, "-a", trained, "--quantise", "f32"]
    export_without_torch("--to", "gguf", *words, "-o", merged)
    wanted = logits(expected)
    # A GGUF adapter's factors are rounded to 16 bits.
    assert abs(logits(merged) - wanted).max() < 0.02 * abs(wanted).max()
    assert abs(logits(base) - wanted).max() > 0.1 * abs(wanted).max()
    settings = read_adapter_settings(merged)
    assert settings is not None
    assert (settings.template, settings.lora_r) == ("alpaca", 4)


def test_an_adapter_of_a_gguf_base_is_written_as_gguf_without_torch(
    tiny: Path, trained: Path, tmp_path: Path
) -> None:
    base, expected = tmp_path / "base.gguf", tmp_path / "expected.gguf"
    plain = ExportOptions("gguf", str(base), model=str(tiny), quantise="f32", template="alpaca")
    export(plain)
    export(
        dataclasses.replace(plain, to="gguf-adapter", adapter=(str(trained),), output=str(expected))
    )
    # From a PEFT folder, and from a folder that has it already, as training leaves it.
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    both = shutil.copytree(trained, tmp_path / "both")
    for folder, made in ((trained, first), (both, second)):
        export_without_torch("--to", "gguf-adapter", "-m", base, "-a", folder, "-o", made)
        assert logits(base, [made]) == pytest.approx(logits(base, [expected]), abs=1e-6)
        assert read_adapter_settings(made) == read_adapter_settings(trained)
        shutil.copy(made, both / "adapter.gguf")


def test_gguf_parts_are_merged_without_torch(gguf_parts: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = gguf_parts
    words = ["-m", base, "-a", adapter, "--template", "alpaca", "--quantise", "q4_0"]
    export_without_torch("--to", "ollama", *words, "-o", tmp_path / "out")
    assert "PARAMETER num_ctx 2048\n" in (tmp_path / "out/Modelfile").read_text("utf-8")
    with GgufFile(tmp_path / "out/model.gguf") as file:
        assert "Q4_0" in file.formats()
        assert "F32" not in file.formats()


def test_the_settings_of_a_merged_file_stay(gguf_parts: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = gguf_parts
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    options = ExportOptions("gguf", str(first), model=str(base), adapter=(str(adapter),))
    export(dataclasses.replace(options, template="alpaca"))
    export(ExportOptions("gguf", str(second), model=str(first), quantise="q8_0"))
    assert read_adapter_settings(second) == read_adapter_settings(first)
    with GgufFile(second) as file:
        assert file.formats() == {"Q8_0"}


def test_an_export_of_a_catalogue_s_model_keeps_what_is_known_of_it(tmp_path: Path) -> None:
    """Otherwise the exported file would answer worse than what it was made of."""
    made = tmp_path / "out.gguf"
    export(ExportOptions("gguf", str(made), adapter=("smollm2-iepile-lora",), quantise="q8_0"))
    usual, exported = resolve_model(), resolve_model(str(made))
    assert exported.adapters == ()
    for name in ("passage_tokens", "by_task", "tasks", "languages", "template"):
        assert getattr(exported, name) == getattr(usual, name)
