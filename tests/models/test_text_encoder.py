import numpy as np
import pytest
import torch

from edgekd.errors import UsageError
from edgekd.models import text_encoder
from edgekd.tasks import text
from tests.texts import VOCABULARY, sentences, write_csv, write_encoder, write_tokenizer

LENGTH = 12


@pytest.fixture
def language(tmp_path):
    """A folder with an encoder, transformers' own form of it, and a task of its words."""
    bert = write_encoder(tmp_path / "bert")
    options = text.Options(
        train=str(write_csv(tmp_path / "train.csv", sentences(30))),
        val_fraction=0.2,
        test_fraction=0.2,
        tokenizer=str(tmp_path / "bert"),
        max_length=LENGTH,
    )
    return str(tmp_path / "bert"), bert, text.read(options, 0)


def build(task, **options):
    return text_encoder.build((LENGTH,), 3, task=task, **options).eval()


@torch.no_grad()
def pooled(bert, ids, keep=None):
    """Mean over the words of transformers' last layer; of `keep` layers alone, where given."""
    if keep is not None:
        bert.encoder.layer = torch.nn.ModuleList(bert.encoder.layer[i] for i in keep)
    there = (ids != 0).long()
    hidden = bert(input_ids=ids.long(), attention_mask=there).last_hidden_state
    return (hidden * there[..., None]).sum(1) / there.sum(1, keepdim=True)


@torch.no_grad()
@pytest.mark.parametrize("keep", [None, [0, 2], [1]])
def test_it_computes_what_transformers_computes(language, keep):
    folder, bert, task = language
    net = build(task, folder=folder, layers=keep)
    ids = torch.from_numpy(np.array(task.splits["train"].inputs))
    torch.testing.assert_close(net(ids), net.head(pooled(bert, ids, keep)), atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing(language):
    folder, _, task = language
    net = build(task, folder=folder)
    ids = torch.from_numpy(np.array(task.splits["train"].inputs[:4]))
    length = int((ids != 0).sum(1).max())
    short = text_encoder.build((length,), 3, task=task, folder=folder).eval()
    short.head = net.head
    torch.testing.assert_close(net(ids), short(ids[:, :length]), atol=1e-6, rtol=1e-5)
    assert torch.isfinite(net(torch.zeros_like(ids))).all()  # a text without a word


def test_rare_words_share_the_row_of_the_nearest(language):
    folder, bert, task = language
    net = build(task, folder=folder, min_count=2)
    counts = np.bincount(task.splits["train"].inputs.reshape(-1), minlength=len(VOCABULARY))
    kept = [i for i in range(len(VOCABULARY)) if counts[i] >= 2 or VOCABULARY[i] in ("[PAD]", "[UNK]")]
    vectors = bert.embeddings.word_embeddings.weight.detach().numpy()
    assert net.words.weight.shape[0] == len(kept) < len(VOCABULARY)
    np.testing.assert_array_equal(net.words.weight.detach().numpy(), vectors[kept])
    for word in range(len(VOCABULARY)):
        if word in kept:
            expected = word
        else:
            angles = [
                vectors[word] @ vectors[k] / np.linalg.norm(vectors[word]) / np.linalg.norm(vectors[k])
                for k in kept[1:]  # not padding
            ]
            expected = kept[1:][int(np.argmax(angles))]
        assert kept[int(net.rows[word])] == expected, VOCABULARY[word]


def test_rare_words_as_the_unknown_one(language):
    folder, _, task = language
    for options in ({"folder": folder, "others": "unknown"}, {}):
        net = build(task, min_count=2, **options)
        unseen, unknown = VOCABULARY.index("##q"), VOCABULARY.index("[UNK]")
        assert net.rows[unseen] == net.rows[unknown] != net.rows[0]


def test_a_tokenizer_of_another_model_is_refused(language, tmp_path):
    _, _, task = language
    more = write_encoder(tmp_path / "more", vocab_size=len(VOCABULARY) + 4)
    assert more.config.vocab_size == len(VOCABULARY) + 4
    with pytest.raises(UsageError, match=rf"vectors of {len(VOCABULARY) + 4} words, .* {len(VOCABULARY)}"):
        build(task, folder=str(tmp_path / "more"))
    write_encoder(tmp_path / "swapped")
    swapped = [*VOCABULARY[:5], VOCABULARY[6], VOCABULARY[5], *VOCABULARY[7:]]
    write_tokenizer(tmp_path / "swapped", swapped)
    with pytest.raises(UsageError, match=r"vocab.txt: other words, or in another order"):
        build(task, folder=str(tmp_path / "swapped"))


def test_what_does_not_fit_is_refused(language, tmp_path):
    folder, _, task = language
    with pytest.raises(UsageError, match=r"layers names 3, .* has 3"):
        build(task, folder=folder, layers=[0, 3])
    with pytest.raises(UsageError, match="takes 32 ids at most"):
        text_encoder.build((33,), 3, task=task, folder=folder)
    with pytest.raises(UsageError, match="no encoder can be read from it"):
        build(task, folder=str(tmp_path))
    with pytest.raises(UsageError, match="width = 10 is no multiple of heads = 4"):
        build(task, width=10)
    with pytest.raises(UsageError, match="give folder"):
        build(task, layers=[0])
    write_encoder(tmp_path / "relu", hidden_act="relu")
    with pytest.raises(UsageError, match="hidden_act = 'relu'"):
        build(task, folder=str(tmp_path / "relu"))
