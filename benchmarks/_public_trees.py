"""Public models of Haiku and Equinox, with the answers that `infer` should give, typed by hand."""

import __future__

import ast
import contextlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._public import Public, load
from benchmarks._public_nnx import HEADS, LENGTH, TOKENS, VOCABULARY
from tests.zoo.case import Case

HAIKU = ("Haiku", "google-deepmind/dm-haiku", "f4d858a5cbb29140855d68f81f5fd625e078a5ae")
EQUINOX = ("Equinox", "patrick-kidger/equinox", "9336d820b2ef66b360fc6cb3611b3da5cefbb14d")


def haiku_transformer(folder: Path) -> Case:
    """Decoder with attention of Haiku's, and dropout."""
    models = load(folder / "dm-haiku/examples/transformer", "model")
    hk = models.hk

    def make_model(width, heads, head_size, key):
        def run(tokens):
            stack = models.Transformer(heads, 2, head_size, dropout_rate=0.1)
            return models.LanguageModel(stack, width, VOCABULARY, pad_token=0)(tokens)

        transformed = hk.transform(run)
        params = transformed.init(key, jnp.ones((2, LENGTH), int))
        return {"params": params, "apply": transformed.apply}

    # The projection behind the heads is its attention's last `linear`.
    answer = """
    params/language_model/embed/embeddings          - out*     1   7   1
    params/language_model/positional_embeddings     - out*     1   7   1
    params/language_model/linear/w                  in* -      7   1   1
    params/language_model/linear/b                  -          1   1   1
    */multi_head_attention*/query/w                 in* out*   7   6   2^-1/2
    */multi_head_attention*/query/b                 out*       1   6   2^-1/2
    */multi_head_attention*/linear/w                in* out*   6   7   1
    */multi_head_attention*/linear/b                out*       1   7   1
    */multi_head_attention*/w                       in* out*   7   6   1
    */multi_head_attention*/b                       out*       1   6   1
    */w                                             in* out*   7   7   1
    *                                               out*       1   7   1
    """
    return Case(
        make_model,
        answer,
        base={"width": 16, "heads": 2, "head_size": 4},
        target={"width": 112, "heads": 6, "head_size": 8},
        inputs=TOKENS,
        apply=lambda model, tokens, key: model["apply"](model["params"], key, tokens),
    )


def classes_of(notebook: Path) -> dict[str, Any]:
    """What the cells of a notebook that define classes define, with its imports that are there."""
    names: dict[str, Any] = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        for statement in ast.parse("".join(cell["source"])).body:
            # One annotation of it does not evaluate: `jax.random.PRNGKey | None`.
            unread = __future__.annotations.compiler_flag
            code = compile(ast.Module([statement], []), notebook.name, "exec", unread)
            if isinstance(statement, ast.ClassDef):
                exec(code, names)
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                with contextlib.suppress(ImportError):
                    exec(code, names)
    return names


def equinox_bert(folder: Path) -> Case:
    """Encoder with norms behind its blocks, its first token read; written for one sequence."""
    models = classes_of(folder / "equinox/docs/examples/bert.ipynb")

    def make_model(width, heads, d_ff, key):
        config = {
            "vocab_size": VOCABULARY,
            "hidden_size": width,
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "intermediate_size": d_ff,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "max_position_embeddings": LENGTH,
            "type_vocab_size": 2,
        }
        return models["BertClassifier"](config, num_classes=10, key=key)

    def apply(model, tokens, key):
        def one(tokens, key):
            inputs = {"token_ids": tokens, "segment_ids": jnp.zeros_like(tokens)}
            return model(inputs, True, key)

        return jax.vmap(one)(tokens, jax.random.split(key, len(tokens)))

    answer = """
    encoder/embedder_block/*/weight    - out*     1   6   1
    */query_proj/weight                out* in*   6   6   3^-1/2
    */query_proj/bias                  out*       1   6   3^-1/2
    */attention/*/weight               out* in*   6   6   1
    */ff_block/mlp/weight              out* in*   6   5   1
    */ff_block/mlp/bias                out*       1   5   1
    */ff_block/output/weight           out* in*   5   6   1
    encoder/pooler/weight              out* in*   6   6   1
    classifier_head/weight             - in*      6   1   1
    classifier_head/bias               -          1   1   1
    *                                  out*       1   6   1
    """
    answer = "*/layernorm/*   out*   1   6   1\n" + answer
    return Case(make_model, answer, **HEADS, inputs=TOKENS, apply=apply)


MODELS = {
    "Transformer (Haiku)": Public(*HAIKU, haiku_transformer),
    "BERT (Equinox)": Public(
        *EQUINOX, equinox_bert, "the classes of its notebook, their annotations unread"
    ),
}
