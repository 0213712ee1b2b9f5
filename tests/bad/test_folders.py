"""Broken, foreign and dangerous model folders: each ends with one line and exit code 2, before any training step."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora2_bench.training import step
from tests.conftest import Told

Bench = Callable[..., Told]
Folders = Callable[[str], Path]
Damage = Callable[[Path], object]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
QUERY = "encoder.layer.1.attention.self.query.weight"
RUN = []


class Evil:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return RUN.append, ("unpickled",)


# --- ways to damage a folder ---


def config(**changes: Any) -> Damage:
    """Change config.json; None takes a key out."""

    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text()) | changes
        write(folder, "config.json", {key: value for key, value in values.items() if value is not None})

    return damage


def write(folder: Path, name: str, values: Any) -> None:
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def put(name: str, content: bytes | str) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def without(*names: str) -> Damage:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return damage


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Change the weights."""

    def damage(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / WEIGHTS, {"format": "pt"})

    return damage


def kept(pattern: str) -> Damage:
    """Only the tensors whose name matches."""
    return tensors(lambda found: [found.pop(name) for name in list(found) if not re.search(pattern, name)])


def replaced(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    return tensors(lambda found: found.update({name: change(found[name])}))


def added(**more: torch.Tensor) -> Damage:
    return tensors(lambda found: found.update({name.replace("__", "."): tensor for name, tensor in more.items()}))


def one_layer_more(found: dict[str, torch.Tensor]) -> None:
    found |= {name.replace("layer.1.", "layer.2."): t.clone() for name, t in found.items() if "layer.1." in name}


def poked(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """One number of a tensor set to `value`."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[7] = value
        return tensor

    return change


def sharded(folder: Path) -> None:
    """Two shards and their index, as save_pretrained writes large models."""
    found = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(found)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: found[name] for name in part}, folder / file, {"format": "pt"})
    write(folder, INDEX, {"weight_map": {name: file for file, part in shards.items() for name in part}})


def shards_and(change: Damage) -> Damage:
    def damage(folder: Path) -> None:
        sharded(folder)
        change(folder)

    return damage


def index(change: Callable[[dict[str, str]], object]) -> Damage:
    def damage(folder: Path) -> None:
        sharded(folder)
        values = json.loads((folder / INDEX).read_text())
        change(values["weight_map"])
        write(folder, INDEX, values)

    return damage


def outside(folder: Path) -> None:
    """Shards moved one folder up, and an index that follows them."""
    sharded(folder)
    values = json.loads((folder / INDEX).read_text())
    for name in set(values["weight_map"].values()):
        (folder / name).rename(folder.parent / name)
    write(folder, INDEX, {"weight_map": {name: f"../{file}" for name, file in values["weight_map"].items()}})


def pickled(name: str) -> Damage:
    return put(name, pickle.dumps({"weight": Evil()}))


def renamed(name: str, other: str) -> Damage:
    return lambda folder: (folder / name).rename(folder / other)


def copy_of(name: str, other: str) -> Damage:
    return lambda folder: shutil.copy(folder / name, folder / other)


def instead_of(name: str, make: Callable[[Path], None]) -> Damage:
    """Something else under the name of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return damage


def one_token_type(folder: Path) -> None:
    replaced("embeddings.token_type_embeddings.weight", lambda t: t[:1])(folder)
    config(type_vocab_size=1)(folder)


def cut(name: str, size: int) -> Damage:
    return lambda folder: os.truncate(folder / name, size)


def code(name: str, **keys: Any) -> Damage:
    """A JSON file that names code, and the code."""

    def damage(folder: Path) -> None:
        values = json.loads((folder / name).read_text()) | keys
        write(folder, name, values)
        (folder / "evil.py").write_text(
            "from tests.bad.test_folders import RUN\nRUN.append('imported')\nclass Evil: pass\n"
        )

    return damage


def vocabulary(*words: str) -> Damage:
    """BERT's own vocabulary replaced by these words."""

    def damage(folder: Path) -> None:
        without("tokenizer.json", "added_tokens.json")(folder)
        (folder / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words)) + "\n")

    return damage


def of_type(kind: str) -> Damage:
    return lambda folder: write(folder, "config.json", {"model_type": kind})


EVIL = "from tests.bad.test_folders import RUN\nRUN.append('imported')\nclass Evil: pass\n"
AUTO_MAP = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoModelForSequenceClassification": "evil.Evil"}
ANY_CONFIG = r"config\.json is not possible \(.+\): give the one of the weights"
BERT_CASES: dict[str, tuple[Damage, str]] = {
    # weights that are not all there, or not the encoder's
    "no weights": (without(WEIGHTS), "has no model.safetensors"),
    "pickled weights only": (
        renamed(WEIGHTS, "pytorch_model.bin"),
        "has no model.safetensors",
    ),
    "empty weights": (put(WEIGHTS, b""), "model.safetensors is no whole safetensors file"),
    "garbage weights": (put(WEIGHTS, b"\x80garbage" * 100), "model.safetensors is no whole safetensors file"),
    "HTML for weights": (put(WEIGHTS, "<html>404</html>"), "model.safetensors is no whole safetensors file"),
    "truncated weights": (cut(WEIGHTS, 9000), "model.safetensors is no whole safetensors file"),
    "a truncated header": (cut(WEIGHTS, 20), "model.safetensors is no whole safetensors file"),
    "a pickle named safetensors": (pickled(WEIGHTS), "model.safetensors is no whole safetensors file"),
    "a torch file named safetensors": (
        lambda f: torch.save({"weight": torch.zeros(2)}, f / WEIGHTS),
        "model.safetensors is no whole safetensors file",
    ),
    "only a head": (kept("pooler"), r"the weights hold no layer 0 of an encoder"),
    "only embeddings": (kept("embeddings"), r"the weights hold no layer 0 of an encoder"),
    "no tensors": (kept("^$"), r"the weights hold no layer 0 of an encoder"),
    "without embeddings": (kept(r"encoder\.|pooler"), r"the weights lack bert\.embeddings\S+ and 4 more"),
    "without the last layer": (kept(r"^(?!.*layer\.1\.)"), r"config\.json says 2 layers, the weights have 1"),
    "without the first layer": (
        kept(r"^(?!.*layer\.0\.)"),
        r"config\.json says 2 layers, the weights have 1 \(without 0",
    ),
    "one tensor less": (kept(f"^(?!{QUERY})"), rf"the weights lack bert\.{QUERY}: give the weights of the whole"),
    "one layer more": (tensors(one_layer_more), r"config\.json says 2 layers, the weights have 3"),
    "config.json says more layers": (config(num_hidden_layers=3), r"says 3 layers, the weights have 2"),
    "config.json says fewer layers": (config(num_hidden_layers=1), r"says 1 layers, the weights have 2"),
    "config.json says 10**9 layers": (config(num_hidden_layers=10**9), r"says 1000000000 layers, the weights have 2"),
    "a foreign tensor": (added(adapter__weight=torch.ones(2)), r"adapter\.weight of the weights fits no place"),
    "foreign tensors": (added(a__b=torch.ones(2), c__d=torch.ones(2)), r"a\.b and 1 more of the weights fits no place"),
    "a quantised map": (replaced(QUERY, lambda t: t.to(torch.int8)), rf"{QUERY} is int8: give the weights"),
    "a float8 map": (replaced(QUERY, lambda t: t.to(torch.float8_e4m3fn)), rf"{QUERY} is float8_e4m3fn|no whole"),
    "a boolean map": (replaced(QUERY, lambda t: t > 0), rf"{QUERY} is bool: give the weights"),
    "a NaN": (replaced(QUERY, poked(float("nan"))), rf"{QUERY} has NaN or infinity"),
    "an infinity": (replaced(QUERY, poked(float("inf"))), rf"{QUERY} has NaN or infinity"),
    "minus infinity": (replaced(QUERY, poked(float("-inf"))), rf"{QUERY} has NaN or infinity"),
    "above float32": (replaced(QUERY, lambda t: poked(1e300)(t.double())), rf"{QUERY} has NaN or infinity"),
    "a NaN in half precision": (
        replaced(QUERY, lambda t: poked(float("nan"))(t.half())),
        rf"{QUERY} has NaN or infinity",
    ),
    "a transposed map": (
        replaced("encoder.layer.0.intermediate.dense.weight", lambda t: t.T),
        r"intermediate\.dense\.weight is \(24, 40\), config\.json needs \(40, 24\)",
    ),
    "a map cut short": (replaced(QUERY, lambda t: t[:-1]), rf"{QUERY} is \(23, 24\), config\.json needs \(24, 24\)"),
    "with and without prefix": (
        tensors(lambda found: found.update({f"bert.{QUERY}": found[QUERY].clone()})),
        rf"the weights have bert\.{QUERY} twice, with bert\. and without",
    ),
    "half a pooler": (kept(r"^(?!pooler\.dense\.bias)"), r"a part of the head, without bert\.pooler\.dense\.bias"),
    "a classifier of five classes": (
        added(classifier__weight=torch.ones(5, 24), classifier__bias=torch.ones(5)),
        r"classifier\.bias is \(5,\), this task's head needs \(2,\)",
    ),
    # shards and their index
    "a stray file": (
        copy_of(WEIGHTS, "model-copy.safetensors"),
        r"has model-copy\.safetensors beside its weights \(model\.safetensors\): move it away",
    ),
    "an adapter beside": (
        lambda f: save_file({"a": torch.ones(2)}, f / "adapter_model.safetensors"),
        r"has adapter_model\.safetensors beside its weights",
    ),
    "shards and a whole": (
        shards_and(lambda f: save_file({"a": torch.ones(2)}, f / WEIGHTS)),
        r"has model\.safetensors beside its weights \(model-00001-of-00002\.safetensors and 1 more\)",
    ),
    "a missing shard": (shards_and(without("model-00002-of-00002.safetensors")), r"lacks model-00002-of-00002\.safe"),
    "a shard twice": (
        shards_and(copy_of("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")),
        r"model-00002-of-00002\.safetensors has \S+ and \d+ more, as another file has",
    ),
    "a third shard": (
        shards_and(lambda f: save_file({"a": torch.ones(2)}, f / "model-00003-of-00003.safetensors")),
        r"has model-00003-of-00003\.safetensors beside its weights",
    ),
    "an index of more tensors": (
        index(lambda m: m.update(more="model-00001-of-00002.safetensors")),
        "the index and the weights name other tensors",
    ),
    "an index of fewer tensors": (index(lambda m: m.pop(QUERY)), "the index and the weights name other tensors"),
    "an index out of the folder": (outside, r"names '\.\./model-0000\d-of-00002\.safetensors': only safetensors files"),
    "an absolute index": (
        index(lambda m: m.update(a="/etc/passwd.safetensors")),
        "names '/etc/passwd.safetensors': only",
    ),
    "an index of pickles": (index(lambda m: m.update(a="evil.bin")), "names 'evil.bin': only safetensors files"),
    "an index of numbers": (index(lambda m: m.update(a=3)), "names '3': only safetensors files"),
    "an index that is a list": (shards_and(put(INDEX, "[]")), "index.json holds a list instead of an object"),
    "an index of garbage": (shards_and(put(INDEX, "{")), "index.json is no JSON"),
    "an index without a map": (shards_and(put(INDEX, "{}")), "index.json has no weight_map"),
    "an empty map": (shards_and(put(INDEX, '{"weight_map": {}}')), "index.json has no weight_map"),
    # config.json
    "no config.json": (without("config.json"), "has no config.json"),
    "an empty config.json": (put("config.json", ""), "config.json is no JSON"),
    "garbage for config.json": (put("config.json", b"\xff\xfe\x00garbage"), "config.json is no JSON"),
    "config.json cut short": (cut("config.json", 40), "config.json is no JSON"),
    "config.json nested deep": (put("config.json", "[" * 100_000), "config.json is no JSON"),
    "a list for config.json": (put("config.json", "[1, 2]"), "config.json holds a list instead of an object"),
    "a number for config.json": (put("config.json", "3"), "config.json holds a int instead of an object"),
    "null for config.json": (put("config.json", "null"), "config.json holds a NoneType instead of an object"),
    "an empty object": (put("config.json", "{}"), "config.json has no model_type"),
    "no model_type": (config(model_type=None), "config.json has no model_type"),
    "a model_type that is a list": (config(model_type=["bert"]), "config.json has no model_type"),
    "an unknown type": (of_type("brandnew"), "is of type brandnew: give one of the encoders bert, roberta, deberta-v2"),
    "GPT-2": (of_type("gpt2"), "is of type gpt2: give one of the encoders"),
    "T5": (of_type("t5"), "is of type t5: give one of the encoders"),
    "DistilBERT": (of_type("distilbert"), "is of type distilbert: give one of the encoders"),
    "an image model": (of_type("vit"), "is of type vit: give one of the encoders"),
    "another encoder's type": (
        config(model_type="deberta-v2"),
        "config.json says type deberta-v2 and BertModel: mend it",
    ),
    "a width that is text": (config(hidden_size="wide"), ANY_CONFIG),
    "a width of 0": (config(hidden_size=0), rf"{ANY_CONFIG}|config\.json needs"),
    "a negative width": (config(hidden_size=-24), rf"{ANY_CONFIG}|config\.json needs"),
    "another width": (config(hidden_size=32), r"is \(24,\), config\.json needs \(32,\)"),
    "a vast width": (config(hidden_size=2**40), r"config\.json needs|is not possible"),
    "heads that do not divide": (config(num_attention_heads=5), ANY_CONFIG),
    "no heads": (config(num_attention_heads=0), ANY_CONFIG),
    "another feed-forward width": (config(intermediate_size=41), r"is \(40,\), config\.json needs \(41,\)"),
    "fewer positions": (config(max_position_embeddings=60), r"is \(80, 24\), config\.json needs \(60, 24\)"),
    "other words": (config(vocab_size=401), r"is \(400, 24\), config\.json needs \(401, 24\)"),
    "a vocabulary of -1": (config(vocab_size=-1), r"is not possible|config\.json needs"),
    "layers that are text": (config(num_hidden_layers="two"), ANY_CONFIG),
    "layers that are negative": (config(num_hidden_layers=-2), "says -2 layers, the weights have 2|is not possible"),
    "no layers": (config(num_hidden_layers=0), "says 0 layers, the weights have 2"),
    "an unknown activation": (config(hidden_act="evil"), ANY_CONFIG),
    "quantised by config.json": (config(quantization_config={"load_in_8bit": True}), "has a quantization_config"),
    # files that name code
    "code in config.json": (code("config.json", auto_map=AUTO_MAP), "config.json names code under auto_map"),
    "code of the hub in config.json": (
        code("config.json", auto_map={"AutoConfig": "who/evil--evil.Evil"}),
        "config.json names code under auto_map",
    ),
    "code of a new type": (
        code("config.json", model_type="brandnew", auto_map=AUTO_MAP),
        "config.json names code under auto_map",
    ),
    "an empty auto_map": (config(auto_map={}), "config.json names code under auto_map"),
    "a pipeline": (config(custom_pipelines={"evil": {"impl": "evil.Evil"}}), "names code under custom_pipelines"),
    "an attention kernel": (config(attn_implementation="who/kernel"), "names code under attn_implementation"),
    "its own attention": (config(_attn_implementation="who/kernel"), "names code under _attn_implementation"),
    "code in the tokenizer": (
        code("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}),
        "tokenizer_config.json names code under auto_map",
    ),
    # the tokenizer
    "no tokenizer": (
        without("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"),
        "has no tokenizer",
    ),
    "no vocabulary": (without("tokenizer.json", "vocab.txt"), "has no tokenizer"),
    "garbage for the tokenizer": (put("tokenizer.json", b"\xff\x00garbage"), "the tokenizer's files cannot be read"),
    "an empty tokenizer": (put("tokenizer.json", ""), "the tokenizer's files cannot be read"),
    "a list for the tokenizer": (put("tokenizer.json", "[]"), "the tokenizer's files cannot be read"),
    "garbage for its config": (put("tokenizer_config.json", "{"), "tokenizer_config.json is no JSON"),
    "a list for its config": (put("tokenizer_config.json", "[]"), "tokenizer_config.json holds a list"),
    "a foreign vocabulary": (vocabulary(*(f"zzq{n}" for n in range(300))), "the tokenizer knows 0% of the words"),
    "a vocabulary of nothing": (vocabulary(), "the tokenizer knows 0% of the words"),
    "a vocabulary above the embeddings": (
        vocabulary(*(f"zzq{n}" for n in range(500))),
        "the tokenizer's ids go up to 504, and config.json says vocab_size 400",
    ),
    "one token type": (
        one_token_type,
        "gives two token types, and config.json says type_vocab_size 1",
    ),
    # what cannot be read at all
    "a pipe for weights": (instead_of(WEIGHTS, os.mkfifo), "has no model.safetensors"),
    "a pipe for the vocabulary": (instead_of("vocab.txt", os.mkfifo), "vocab.txt is no file"),
    "a folder for config.json": (
        instead_of("config.json", Path.mkdir),
        "config.json is no file",
    ),
    "a link to nowhere": (
        instead_of("config.json", lambda path: path.symlink_to("gone")),
        "config.json is no file",
    ),
}


@pytest.fixture
def refused(cell: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a small cell that has to be refused: one line, exit code 2, no step, nothing left. Returns the line."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(step, "backward", lambda *_: pytest.fail("a training step was made"))
        results = tmp_path / "results"
        quick = ("task=rte", "data.max_train=40", "data.max_eval=20", "train.max_length=48", "device=cpu")
        told = cell(*quick, f"results={results}", *arguments)
        assert told.code == 2 and told.out == "", told
        assert told.err.count("\n") == 1 and told.err.startswith("error: "), told.err
        assert not list(results.glob("cells/*")) and not list(results.glob("running/*/checkpoints/*"))
        assert RUN == []
        return told.err.removeprefix("error: ")

    return run


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


@pytest.mark.parametrize("case", BERT_CASES)
def test_a_bad_folder_is_refused_in_one_line(
    case: str, refused: Callable[..., str], tiny_folders: Folders, tmp_path: Path
) -> None:
    damage, pattern = BERT_CASES[case]
    folder = copied(tiny_folders("bert"), tmp_path / "folder")
    damage(folder)
    method = "bitfit" if len(case) % 2 else "full"
    line = refused("model=local", f"model.path={folder}", f"method={method}")
    assert re.search(pattern, line), line
    assert str(tmp_path) not in line


@pytest.mark.parametrize(
    ("architecture", "damage", "pattern"),
    [
        ("roberta", config(pad_token_id=0), "the tokenizer pads with 1, and config.json says pad_token_id 0"),
        ("roberta", kept(r"^(?!.*layer\.1\.)"), r"config\.json says 2 layers, the weights have 1"),
        ("roberta", config(model_type="bert"), "config.json says type bert and RobertaModel: mend it"),
        (
            "deberta-v2",
            kept(r"^(?!encoder\.rel_embeddings)"),
            r"the weights lack deberta\.encoder\.rel_embeddings\.weight",
        ),
        ("deberta-v2", without("tokenizer.json", "spm.model"), "has no tokenizer"),
    ],
)
def test_the_other_encoders_are_as_strict(
    architecture: str, damage: Damage, pattern: str, refused: Callable[..., str], tiny_folders: Folders, tmp_path: Path
) -> None:
    folder = copied(tiny_folders(architecture), tmp_path / "folder")
    damage(folder)
    assert re.search(pattern, refused("model=local", f"model.path={folder}"))


@pytest.mark.parametrize("setting", ["model.path", "data.dir"])
@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("~nosuchuser", "=~nosuchuser: there is no such user"),
        ("z" * 300, "z{77}\\.\\.\\. cannot be a folder \\(File name too long\\)"),
        ("/".join(["abc"] * 2000), "cannot be a folder \\(File name too long\\)"),
        ("loop", "cannot be a folder \\(Too many levels of symbolic links\\)"),
        ("a\0b", "'a.x00b' cannot be a folder \\(it has a NUL byte\\)"),
        ("nowhere", "nowhere"),
        ("file", "file"),
        ("file/below", "below"),
    ],
    ids=["user", "name", "path", "loop", "nul", "nowhere", "file", "below"],
)
def test_a_path_that_is_none_is_refused(
    setting: str,
    text: str,
    pattern: str,
    refused: Callable[..., str],
    tiny_folders: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("file").write_text("")
    folder = text if setting == "model.path" else str(tiny_folders("bert"))
    data = () if setting == "model.path" else ("data=local", f'data.dir="{text}"')
    line = refused("model=local", f'model.path="{folder}"', *data)
    assert re.search(pattern, line), line
    assert len(line) < 400


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", WEIGHTS])
def test_an_unreadable_file_is_refused(
    name: str, refused: Callable[..., str], tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(tiny_folders("bert"), tmp_path / "folder")
    without("tokenizer.json")(folder) if name == "vocab.txt" else None
    open_path = Path.open

    def forbidden(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == folder / name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return open_path(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", forbidden)  # the tests may be run by root, who may read all
    assert f"{name} cannot be read (Permission denied)" in refused("model=local", f"model.path={folder}")


@pytest.mark.parametrize("name", ["minilm", "roberta_base", "roberta_large", "deberta_v3_base"])
def test_a_pinned_name_over_another_model_is_refused(
    name: str, refused: Callable[..., str], tiny_folders: Folders
) -> None:
    folder = tiny_folders("roberta")
    line = refused("model=local", f"model.path={folder}", f"model.name={name}")
    assert re.search(rf"is not {name} .+ says type roberta, 2 layers, width 24: leave model\.name out", line), line
