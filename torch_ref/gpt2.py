"""GPT-2, with the names and shapes of the published checkpoints."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GPT2(nn.Module):
    """GPT-2: the logits of the next tokens, from tokens of shape (batch, length).

    Its `state_dict` has the names of `GPT2LMHeadModel` in Hugging Face's transformers, so that
    either loads the other's; it leaves dropout out.

    Args:
      vocabulary: number of tokens.
      context: length of the longest sequence.
      width: of the residual stream.
      num_layers: number of blocks.
      num_heads: heads of each block.

    Examples:
      >>> GPT2(7, context=4, width=8, num_layers=1, num_heads=2)(torch.tensor([[1, 2]])).shape
      torch.Size([1, 2, 7])

    References:
      Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, Section 2.3.
    """

    def __init__(
        self, vocabulary: int, *, context: int, width: int, num_layers: int, num_heads: int
    ) -> None:
        """Allocate and draw the parameters."""
        super().__init__()
        blocks = nn.ModuleList(_Block(width, num_heads) for _ in range(num_layers))
        embedding = nn.Embedding(vocabulary, width)
        self.transformer = nn.ModuleDict(
            OrderedDict(
                wte=embedding,
                wpe=nn.Embedding(context, width),
                h=blocks,
                ln_f=nn.LayerNorm(width),
            )
        )
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        self.lm_head.weight = embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (batch, length, vocabulary)."""
        parts = self.transformer
        x = parts["wte"](tokens) + parts["wpe"](torch.arange(tokens.shape[-1]))
        for block in parts["h"]:  # type: ignore[attr-defined]
            x = block(x)
        return self.lm_head(parts["ln_f"](x))


class _Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and beside a residual."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = _Attention(width, num_heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": _Conv1D(width, 4 * width)})
        self.mlp["c_proj"] = _Conv1D(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        hidden = F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")
        return x + self.mlp["c_proj"](hidden)


class _Attention(nn.Module):
    """Causal self-attention, with query, key and value in one matrix."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.c_attn = _Conv1D(width, 3 * width)
        self.c_proj = _Conv1D(width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
            for part in self.c_attn(x).chunk(3, dim=-1)
        )
        query, key, value = heads
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        weights = logits.masked_fill(future, float("-inf")).softmax(-1)
        return self.c_proj((weights @ value).transpose(-2, -3).flatten(-2))


class _Conv1D(nn.Module):
    """An affine map whose weight is stored as (inputs, outputs), as GPT-2's is."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias
