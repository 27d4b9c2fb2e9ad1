"""Names of parameters as words in one vocabulary, and the numbers that give their place."""

import re
from types import MappingProxyType
from typing import NamedTuple

# Two names of one thing become one word. A word that says nothing of its own becomes nothing.
_SAME = {
    "attention": "attn mha attentions",
    "backward": "reverse",
    "blocks": "h layers layer block",
    "cross": "crossattention multihead",
    "down": "fc_out",
    "embed": "wte emb embedding embeddings embedder",
    "key": "k wk",
    "linear": "dense fc",
    "mean": "running_mean",
    "feed_forward": "mlp ffn ff feedforward",
    "norm": "ln bn gn layernorm batchnorm groupnorm rmsnorm norms",
    "conv": "convs convolution",
    "out": "o wo output",
    "positions": "wpe pos position positional",
    "query": "q wq",
    "readout": "head lm_head unembed unembedding classifier logits",
    "up": "c_fc",
    "value": "v wv",
    "": "proj projection module model transformer weight kernel bias c layer_instance",
}
_CANONICAL = MappingProxyType(
    {name: word for word, names in _SAME.items() for name in names.split()}
)
# An acronym is one piece, and camel case is cut: "BatchNorm_0" is batch, norm and 0.
_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


class Words(NamedTuple):
    """A name taken apart.

    Args:
      template: Spelling of the name with every number left out.
      words: Words of the name, in one vocabulary.
      numbers: Numbers of the name, in their order.
      labels: Word before each number.
    """

    template: str
    words: frozenset[str]
    numbers: tuple[int, ...]
    labels: tuple[str, ...]

    def at(self, *numbers: int) -> "Words":
        """The name of one row of a stack."""
        labels = self.labels + ("",) * len(numbers)
        return self._replace(numbers=self.numbers + numbers, labels=labels)


def read(name: str) -> Words:
    """Takes a name apart, of either framework.

    Example:
      >>> read("transformer.h.11.attn.q_proj").numbers
      (11,)
      >>> sorted(read("transformer.h.11.attn.q_proj").words)
      ['attention', 'blocks', 'query']
      >>> read("blocks/11/attention/query").words == read("transformer.h.11.attn.q_proj").words
      True
    """
    numbers: list[int] = []
    labels: list[str] = []
    words: list[str] = []
    for part in re.split(r"[./]", name):
        # A part that has a synonym as a whole, such as "c_fc" for "up", is not cut further: its
        # pieces mean something else.
        whole = _canonical(re.sub(r"\d+", "", part).strip("_"))
        pieces = [piece.lower() for piece in _PIECES.findall(part)]
        if whole is not None:
            pieces = [whole, *(piece for piece in pieces if piece.isdigit())]
        for piece in pieces:
            if piece.isdigit():
                numbers.append(int(piece))
                labels.append(words[-1] if words else "")
            else:
                # A word that says nothing of its own, such as "proj", is left out.
                words += [word] if (word := _canonical(piece, piece)) else []
    template = re.sub(r"\d+", "*", name)
    return Words(template, frozenset(words), tuple(numbers), tuple(labels))


def _canonical(name: str, default: str | None = None) -> str | None:
    return _CANONICAL.get(name.lower(), default)
