"""A small language: its tokenizer, a BERT of it, and sentences whose class a word gives away."""

import csv
import string

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]")
TOPICS = {
    "card": ("card", "plastic", "chip"),
    "cash": ("cash", "note", "coin"),
    "rate": ("rate", "fee", "price"),
}
FILLERS = ("my", "the", "is", "where", "what", "please", "now", "lost", "late", "help")
LETTERS = (*string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase), "?")
VOCABULARY = (*SPECIAL, *(w for words in TOPICS.values() for w in words), *FILLERS, *LETTERS)


def write_tokenizer(folder, vocabulary=VOCABULARY):
    """tokenizer.json and vocab.txt of a WordPiece tokenizer; what is no word falls into letters."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [("[CLS]", numbers.get("[CLS]", 0)), ("[SEP]", numbers.get("[SEP]", 0))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return folder


def write_encoder(folder, layers=3, width=16, heads=2, inner=32, places=32, **config):
    """The tokenizer and a BERT with random weights, as transformers saves it; returns the BERT."""
    from transformers import BertConfig, BertModel

    write_tokenizer(folder)
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": places,
        "initializer_range": 0.3,  # so that layers and words differ visibly
    }
    bert = BertModel(BertConfig(**{**settings, **config}), add_pooling_layer=False).eval()
    bert.save_pretrained(folder)
    return bert


def sentences(count, seed=0):
    """(text, label) of each: fillers around one word of the topic."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        topic = list(TOPICS)[i % len(TOPICS)]
        words = [*rng.choice(FILLERS, rng.integers(3, 7)), *rng.choice(TOPICS[topic], rng.integers(1, 3))]
        found.append((" ".join(rng.permutation(words)) + "?", topic))
    return found


def write_csv(path, rows):
    """text,label, and thing of rows that tell it, below a header."""
    header = ("text", "label", "thing")[: len(rows[0]) if rows else 2]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path
