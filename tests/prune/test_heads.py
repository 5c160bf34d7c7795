"""Attention: every head loses the same channels, or whole heads go."""

import copy

import numpy as np
import pytest
import torch
from nets import CLASSES, inputs, outputs, prune_config
from scipy.special import softmax
from torch import nn

from edgekd.errors import UsageError
from edgekd.prune import heads, structured
from edgekd.prune.groups import Prunable, rebuild
from edgekd.prune.importance import Samples

EXAMPLE, X = torch.from_numpy(inputs(1)), inputs(16, seed=7)
SAMPLES = Samples(torch.from_numpy(X), None, [slice(0, CLASSES)])
HEADS, WIDTH = 4, 8


class Attention(nn.Module):
    """Queries, keys and values of layers of their own; `shape` is what a view makes of the channels."""

    def __init__(self, shape):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(HEADS * WIDTH, HEADS * WIDTH) for _ in range(4))
        self.shape = shape

    def forward(self, x):
        q, k, v = (f(x).view(*x.shape[:2], *self.shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class Fused(nn.Module):
    """One layer for the three, taken apart by a view or split before."""

    def __init__(self, split):
        super().__init__()
        self.qkv, self.out = (
            nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH),
            nn.Linear(HEADS * WIDTH, HEADS * WIDTH),
        )
        self.split = split

    def forward(self, x):
        b, n, _ = x.shape
        if self.split:
            q, k, v = (t.view(b, n, HEADS, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        else:
            q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Patches, learned positions, one encoder block, mean, head."""

    def __init__(self, attention):
        super().__init__()
        width = HEADS * WIDTH
        self.patch, self.positions = nn.Conv2d(2, width, 2, 2), nn.Parameter(0.1 * torch.randn(1, 16, width))
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.positions
        x = x + self.attention(self.norm1(x))
        return self.head((x + self.ffn(self.norm2(x))).mean(1))


def transformer(attention):
    torch.manual_seed(0)
    return Transformer(attention).eval()


ATTENTIONS = {
    "narrower": lambda: Attention((HEADS, -1)),
    "fewer": lambda: Attention((-1, WIDTH)),
    "fused": lambda: Fused(split=False),
}


def weights(attention):
    """Of queries, keys and values: (inputs + bias, heads, channels of each)."""
    if isinstance(attention, Attention):
        layers = [(f.weight, f.bias) for f in (attention.q, attention.k, attention.v)]
    else:
        layers = list(zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True))
    return [torch.cat([w, b[:, None]], dim=1).detach().numpy().T for w, b in layers]


def by_hand(attention, x, chosen):
    """Attention with so many channels of each head, (heads, channels) chosen: in numpy."""
    x1 = np.concatenate([x, np.ones_like(x[..., :1])], axis=-1)
    q, k, v = ((x1 @ w)[..., chosen] for w in weights(attention))  # (B, N, heads, channels)
    share = softmax(np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(chosen.shape[1]), axis=-1)
    y = np.einsum("bhnm,bmhd->bnhd", share, v).reshape(*x.shape[:2], -1)
    out = attention.out
    return y @ out.weight.detach().numpy().T[chosen.ravel()] + out.bias.detach().numpy()


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_what_is_left_of_attention_is_what_the_formula_gives_with_fewer_channels_or_heads(kind):
    net = transformer(ATTENTIONS[kind]())
    others = ("patch", "ffn.0", "ffn.2")
    found = Prunable(net, EXAMPLE, prune_config(keep=0.5, ignored_layers=others), SAMPLES)
    assert found.widths == [HEADS if kind == "fewer" else WIDTH]
    places = found.groups[0].scores.argsort(descending=True)[:3].sort().values.numpy()
    found.narrow(0, 3)
    channels = np.arange(HEADS * WIDTH).reshape(HEADS, WIDTH)
    chosen = channels[places] if kind == "fewer" else channels[:, places]
    x = np.random.default_rng(0).standard_normal((3, 5, HEADS * WIDTH)).astype(np.float32)
    expected = by_hand(net.attention, x, chosen)
    with torch.no_grad():
        got = found.net.attention(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_a_transformer_is_pruned_and_rebuilt(kind):
    net = transformer(ATTENTIONS[kind]())
    params = sum(p.numel() for p in net.parameters())
    config = prune_config("params", keep=0.5)
    cut, taken = structured.prune(
        net,
        EXAMPLE,
        config,
        limit=params // 2,
        channel_multiple=1,
        bytes_per_weight=1,
        samples=SAMPLES,
        seed=0,
    )
    assert 0.4 * params < sum(p.numel() for p in cut.parameters()) <= params // 2
    sizes = heads.sizes_of(cut, EXAMPLE)
    assert {s[-1] if kind == "fewer" else s[-2] for s in sizes.values()} == {
        WIDTH if kind == "fewer" else HEADS
    }
    assert cut.ffn[0].out_features < 48 and cut.positions.shape[2] == cut.patch.out_channels
    again = rebuild(transformer(ATTENTIONS[kind]()), EXAMPLE, [taken])
    again.load_state_dict(cut.state_dict())
    np.testing.assert_array_equal(outputs(again, X), outputs(cut, X))


def test_sizes_that_are_written_out_are_an_error_until_the_layers_are_left_alone():
    net = transformer(Attention((HEADS, WIDTH)))
    settings = {"channel_multiple": 1, "bytes_per_weight": 1, "samples": SAMPLES, "seed": 0}
    with pytest.raises(UsageError, match=r"attention\.\w give cannot become narrower.*-1 in view"):
        structured.prune(net, EXAMPLE, prune_config("params", keep=0.5), limit=5000, **settings)
    layers = tuple(f"attention.{name}" for name in "qkv")
    config = prune_config("params", keep=0.5, ignored_layers=layers)
    cut, _ = structured.prune(net, EXAMPLE, config, limit=5000, **settings)
    assert cut.attention.q.out_features == HEADS * WIDTH and cut.attention.q.in_features < HEADS * WIDTH


def test_channels_that_are_lost_count_of_are_an_error():
    net = transformer(Fused(split=True))
    with pytest.raises(UsageError, match=r"cannot follow the channels of attention.qkv to attention.out"):
        Prunable(net, EXAMPLE, prune_config(keep=0.5), SAMPLES)
    found = Prunable(net, EXAMPLE, prune_config(keep=0.5, ignored_layers=("attention.qkv",)), SAMPLES)
    assert sorted(found.widths) == [HEADS * WIDTH, 48]


class Lambda(nn.Module):
    def __init__(self, does):
        super().__init__()
        self.does = does

    def forward(self, x):
        return self.does(x)


@pytest.mark.parametrize(
    "between",
    [
        nn.Identity(),
        nn.LayerNorm(HEADS * WIDTH),
        Lambda(lambda y: 0.5 * y),
        Lambda(lambda y: torch.tanh(y + 1)),
        nn.Sequential(nn.GELU(), nn.Dropout()),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize(
    "view",
    [
        lambda y: y.view(*y.shape[:2], HEADS, -1),
        lambda y: y.transpose(0, 1).contiguous().view(y.shape[1], y.shape[0] * HEADS, -1),
        lambda y: y.unflatten(-1, (HEADS, -1)).permute(0, 2, 1, 3),
        lambda y: y.transpose(1, 2).unflatten(1, (HEADS, -1)).transpose(2, 3),
        lambda y: y.permute(2, 0, 1).reshape(HEADS, -1, *y.shape[:2]).permute(2, 0, 3, 1),
    ],
)
def test_heads_are_seen_behind_what_keeps_the_channels(between, view):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.between = nn.Linear(6, HEADS * WIDTH), between
            self.out = nn.Linear(WIDTH, 3)

        def forward(self, x):
            return self.out(view(self.between(self.q(x))).sum(-2))

    net, x = Net().eval(), torch.randn(1, 5, 6)
    assert heads.sizes_of(net, x) == {"q": (HEADS, WIDTH)}


def test_what_is_no_head_is_not_taken_for_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.same, self.head = nn.Conv2d(2, 16, 2, 2), nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            y = self.conv(x).flatten(2).transpose(1, 2)  # (B, 16, 16): tokens by channels
            z = torch.bmm(y, y).reshape(-1, 16, 4, 4)  # products are other channels
            return self.head((self.same(y) + z.mean((2, 3))[:, None]).mean(1))

    assert heads.sizes_of(Net().eval(), EXAMPLE) == {}


def test_groups_of_a_norm_that_are_the_heads_agree_with_them():
    class Normed(Attention):
        def __init__(self):
            super().__init__((HEADS, -1))
            self.norm = nn.GroupNorm(HEADS, HEADS * WIDTH)

        def forward(self, x):
            y = self.q(x)
            y = self.norm(y.transpose(1, 2)).transpose(1, 2)
            q, k, v = (t.view(*x.shape[:2], *self.shape).transpose(1, 2) for t in (y, self.k(x), self.v(x)))
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    found = Prunable(transformer(Normed()), EXAMPLE, prune_config(keep=0.5), SAMPLES)
    assert WIDTH in found.widths


@pytest.mark.parametrize("error", [ValueError, AssertionError, KeyError])
def test_a_forward_that_looks_at_its_sizes_is_told_and_can_be_left_alone(error):
    class Strict(Attention):
        def forward(self, x):
            if self.q.out_features != HEADS * WIDTH:
                raise error("hidden size")
            return super().forward(x)

    net = transformer(Strict((HEADS, -1)))
    if error is not KeyError:  # which says nothing of sizes
        with pytest.raises(UsageError, match="cannot become narrower"):
            Prunable(net, EXAMPLE, prune_config(keep=0.5), SAMPLES)
    layers = tuple(f"attention.{name}" for name in "qkv")
    found = Prunable(net, EXAMPLE, prune_config(keep=0.5, ignored_layers=layers), SAMPLES)
    assert sorted(found.widths) == [HEADS * WIDTH, 48]


def test_one_slope_for_all_channels_is_no_channel():
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.PReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, CLASSES)
    )
    assert Prunable(net.eval(), EXAMPLE, prune_config(keep=0.5), SAMPLES).widths == [4, 8]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(2, HEADS * WIDTH, 2, 2)
        self.encoder = nn.TransformerEncoderLayer(HEADS * WIDTH, HEADS, 48, dropout=0.0, batch_first=True)
        self.head = nn.Linear(HEADS * WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.encoder(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


def test_torchs_own_attention_loses_the_same_channels_of_each_head():
    torch.manual_seed(0)
    net = Encoder().eval()
    found = Prunable(net, EXAMPLE, prune_config(keep=0.5), SAMPLES)
    before = copy.deepcopy(found.net.encoder.self_attn.in_proj_weight)
    (tokens,) = (i for i, g in enumerate(found.groups) if g.together.shape == (WIDTH, HEADS))
    gone = found.groups[tokens].gone(6)
    assert np.array_equal(np.array(gone) % WIDTH, np.tile(sorted({g % WIDTH for g in gone}), HEADS))
    found.narrow(tokens, 6)
    attention = found.net.encoder.self_attn
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (24, HEADS, 6)
    kept = [c for c in range(HEADS * WIDTH) if c not in gone]
    rows = [piece * HEADS * WIDTH + c for piece in range(3) for c in kept]
    np.testing.assert_array_equal(attention.in_proj_weight.detach(), before[rows][:, kept].detach())
    assert outputs(found.net, X).shape == (16, CLASSES)


def test_of_a_hugging_face_transformer_whole_heads_go():
    from transformers import ViTConfig, ViTForImageClassification

    from edgekd.models.hugging_face import HuggingFaceNet

    torch.manual_seed(0)
    sizes = {"hidden_size": HEADS * WIDTH, "num_hidden_layers": 2, "intermediate_size": 64, "image_size": 8}
    shape = {"num_attention_heads": HEADS, "patch_size": 2, "num_channels": 2, "num_labels": CLASSES}
    net = HuggingFaceNet(ViTForImageClassification(ViTConfig(**sizes, **shape))).eval()
    found = Prunable(net, EXAMPLE, prune_config(keep=0.5), SAMPLES)
    assert sorted(found.widths) == [HEADS, HEADS, HEADS * WIDTH, 64, 64]
    (first, _) = (i for i, width in enumerate(found.widths) if width == HEADS)
    with found.masked(first, 2):
        expected = outputs(found.net, X)
    found.narrow(first, 2)
    # A head whose values are zero says nothing, and neither does one that is not there.
    np.testing.assert_allclose(outputs(found.net, X), expected, atol=1e-5)
    assert sorted(heads.sizes_of(found.net, EXAMPLE).values()) == [(2, WIDTH)] * 3 + [(HEADS, WIDTH)] * 3
