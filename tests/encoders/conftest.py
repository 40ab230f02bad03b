"""Products to encode, and small pretrained models in the folder layout that `--weights` names."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from tests.encoders.twins import write_camembert, write_flaubert

SHARED_WEIGHTS = Path(__file__).resolve().parents[2] / "../shared/weights"

WORDS = [
    "red",
    "blue",
    "steel",
    "cotton",
    "mug",
    "shirt",
    "lamp",
    "kettle",
    "soft",
    "with",
    "handle",
    "and",
    "a",
    "for",
]


@pytest.fixture(scope="session")
def real_weights() -> str:
    if not SHARED_WEIGHTS.is_dir():
        pytest.skip("no pretrained weights beside this checkout (../shared/weights)")
    return str(SHARED_WEIGHTS)


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A `--weights` folder of random models: BERT, CamemBERT and FlauBERT of two layers, and timm's `test_resnet`."""
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=44,
    )
    BertModel(config).half().save_pretrained(root / "org--tiny-bert")  # type: ignore[no-untyped-call]
    _tiny_tokenizer().save_pretrained(root / "org--tiny-bert")
    write_camembert(root / "org--tiny-camembert", WORDS)
    write_flaubert(root / "org--tiny-flaubert")
    (root / "timm--test_resnet").mkdir()
    save_file(timm.create_model("test_resnet").state_dict(), root / "timm--test_resnet" / "model.safetensors")
    return str(root)


def _tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="session")
def products() -> pa.Table:
    """Twelve products with texts of different length and photos of different shape."""
    rng = np.random.default_rng(7)
    rows = [
        {
            "title": " ".join(rng.choice(WORDS, 3)),
            "description": " ".join(rng.choice(WORDS, 4 + 3 * row)),
            "image": photo(rng, width=80 + 7 * row, height=120 - 5 * row),
        }
        for row in range(12)
    ]
    return pa.Table.from_pylist(rows)


def photo(rng: np.random.Generator, *, width: int, height: int) -> bytes:
    """A JPEG of smooth random colours."""
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    buffer = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client answers at once that it is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("MMBATCH_WEIGHTS", raising=False)
