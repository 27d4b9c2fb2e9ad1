"""The GPT of `jaxmup.models` in PyTorch; a hook updates each parameter as its gradient appears."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    """Causal attention and SwiGLU, each behind an RMS norm and beside a residual; no biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_forward_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.gate, self.up = (nn.Linear(width, 4 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape `(batch, length, width)` to the same."""
        h = self.attention_norm(x)
        q, k, v = (
            f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        h = scaled_dot_product_attention(_rotate(q), _rotate(k), v, is_causal=True)
        x = x + self.out(h.transpose(1, 2).flatten(-2))
        h = self.feed_forward_norm(x)
        return x + self.down(silu(self.gate(h)) * self.up(h))


class GPT(nn.Module):
    """Decoder-only, with rotary positions; with `remat` each block is rematerialized."""

    def __init__(self, vocabulary: int, width: int, blocks: int, heads: int, remat: bool):
        super().__init__()
        self.remat = remat
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm, self.readout = nn.RMSNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of tokens."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.remat else block(x)
        return self.readout(self.norm(x))


def trainer(
    vocabulary: int,
    width: int,
    blocks: int,
    heads: int,
    remat: bool,
    batch: tuple[int, int],
    rate: float,
) -> Callable[[int], None]:
    """A function that trains for a number of steps, by PyTorch's fused Adam, its fastest."""
    torch.manual_seed(0)
    model = GPT(vocabulary, width, blocks, heads, remat)
    optimizers = {p: torch.optim.Adam([p], lr=rate, fused=True) for p in model.parameters()}

    def update(parameter: Tensor) -> None:
        optimizers[parameter].step()  # pyright: ignore[reportArgumentType]
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    tokens = torch.randint(vocabulary, batch)
    labels = tokens.roll(-1, 1)

    def train(steps: int) -> None:
        for _ in range(steps):
            cross_entropy(model(tokens).flatten(0, 1), labels.flatten()).backward()

    return train


def _rotate(x: Tensor) -> Tensor:
    length, size = x.shape[-2:]
    frequencies = 10_000.0 ** (-2 * torch.arange(size // 2) / size)
    angles = torch.arange(length)[:, None] * frequencies
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
