"""Public models of NNX, with the answers that `infer` should give, typed by hand."""

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks._public import Public, load
from tests.zoo.case import Case

BONSAI = ("NNX", "jax-ml/bonsai", "36284254cf738d99c1c5d1e3a292d27656a0a365")
FLAX = ("NNX", "google/flax", "18f8f311c275d57f46d95e41b15aa97b454754c0")
TUNIX = ("NNX", "google/tunix", "c7d8950f12a9c55a976bf2e1a0d8b447d71c20b3")

VOCABULARY, LENGTH = 11, 6
TOKENS = jax.ShapeDtypeStruct((2, LENGTH), jnp.int32)

# Attention of Flax divides by √(head size), once: its logits lack (1/r)^½, which the queries carry.
FLAX_ATTENTION = """
{0}query/kernel         in* out* out*   6   6   3^-1/2
{0}query/bias           out* out*       1   6   3^-1/2
{0}key/kernel           in* out* out*   6   6   1
{0}value/kernel         in* out* out*   6   6   1
{0}out/kernel           in* in* out*    6   6   1
{0}out/bias             out*            1   6   1
{0}*/bias               out* out*       1   6   1
"""
HEADS = {  # width 6, heads 2, head size 3, feed-forward size 5
    "base": {"width": 16, "heads": 2, "d_ff": 24},
    "delta": {"width": 64, "heads": 4, "d_ff": 48},
    "target": {"width": 96, "heads": 4, "d_ff": 120},
}
GROUPED = {  # width 7, heads 6, heads of keys 2, head size 5, feed-forward size 11
    "base": {"width": 16, "heads": 4, "kv_heads": 2, "head_size": 4, "d_ff": 24},
    "delta": {"width": 32, "heads": 16, "kv_heads": 4, "head_size": 8, "d_ff": 48},
    "target": {"width": 112, "heads": 24, "kv_heads": 4, "head_size": 20, "d_ff": 264},
}
# Norms of queries and keys leave head-size sums of order 1, divided by their root: (1/r)^½ is
# lacking, which the scale of the queries' norm carries.
GROUPED_ATTENTION = """
{0}q_proj/{1}   in* out* out*   7    30   1
{0}k_proj/{1}   in* out* out*   7    10   1
{0}v_proj/{1}   in* out* out*   7    10   1
{0}o_proj/{1}   in* in* out*    30   7    1
{0}q_norm/*     out*            1    5    5^-1/2
{0}k_norm/*     out*            1    5    1
"""


def bonsai(folder: Path, name: str) -> Any:
    """The module of a model of bonsai."""
    return load(folder / "bonsai", f"bonsai.models.{name}.modeling")


def qwen3(folder: Path) -> Case:
    """Decoder with grouped queries, rotations, norms of queries and keys, and a cache."""
    models = bonsai(folder, "qwen3")

    def make_model(width, heads, kv_heads, head_size, d_ff, rngs):
        config = models.ModelConfig(
            num_layers=2,
            vocab_size=VOCABULARY,
            emb_dim=width,
            mlp_dim=d_ff,
            num_heads=heads,
            head_dim=head_size,
            num_kv_heads=kv_heads,
            rope_theta=10_000,
            rope_scaling_factor=8.0,
            local_rope_theta=1e4,
            norm_eps=1e-6,
            tie_word_embeddings=False,
        )
        return models.Qwen3(config, rngs=rngs)

    def apply(model, tokens):
        cache = models.init_cache(model.config, 2, LENGTH, 0, jnp.float32)
        return model(tokens, cache=cache, segment_ids=jnp.ones_like(tokens))

    answer = GROUPED_ATTENTION.format("layers/*/attn/", "kernel")
    answer += """
    embedder/embedding        - out*     1    7    1
    layers/*layernorm/scale   out*       1    7    1
    layers/*/mlp/down_proj/kernel   in* out*   11   7   1
    layers/*/mlp/*/kernel     in* out*   7    11   1
    final_norm/scale          out*       1    7    1
    lm_head/kernel            in* -      7    1    1
    """
    return Case(make_model, answer, **GROUPED, inputs=TOKENS, apply=apply)


def vit(folder: Path) -> Case:
    """Vision transformer with a class token."""
    models = bonsai(folder, "vit")

    def make_model(width, heads, d_ff, rngs):
        config = models.ModelConfig(
            image_size=(8, 8),
            patch_size=(4, 4),
            num_channels=3,
            hidden_dim=width,
            attn_dropout_prob=0.0,
            dropout_prob=0.0,
            num_heads=heads,
            mlp_dim=d_ff,
            eps=1e-6,
            num_layers=2,
            num_labels=10,
        )
        return models.ViTClassificationModel(config, rngs=rngs)

    answer = FLAX_ATTENTION.format("layers/*/attention/")
    answer += """
    pos_embeddings/projection/kernel       - - in out*   1   6   1
    pos_embeddings/projection/bias         out*          1   6   1
    pos_embeddings/cls_token               - - out*      1   6   1
    pos_embeddings/pos_embeddings          - - out*      1   6   1
    layers/*/linear1/kernel                in* out*      6   5   1
    layers/*/linear1/bias                  out*          1   5   1
    layers/*/linear2/kernel                in* out*      5   6   1
    layers/*/linear2/bias                  out*          1   6   1
    layers/*/layernorm_*/*                 out*          1   6   1
    ln/*                                   out*          1   6   1
    classifier/kernel                      in* -         6   1   1
    classifier/bias                        -             1   1   1
    """
    image = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    inputs = {"args": (image,), "kwargs": {"rngs": None}}
    return Case(make_model, answer, **HEADS, inputs=inputs)


def convnext(folder: Path) -> Case:
    """Depthwise convolutions between products; each stage has a width of its own."""
    models = bonsai(folder, "convnext")

    def make_model(first, second, rngs):
        config = models.ModelConfig((1, 1), (first, second), drop_path_rate=0.0, num_classes=10)
        return models.ConvNeXt(config, rngs=rngs)

    def stage(i, r):
        # A depthwise kernel sums over places and one channel: no input grows.
        return f"""
        stages/{i}/layers/*/dwconv/kernel    - - in out*  1     {r}   1
        stages/{i}/layers/*/pwconv?/kernel   in* out*     {r}   {r}   1
        stages/{i}/layers/*                  out*         1     {r}   1
        """

    answer = stage(0, 3) + stage(1, 5)
    answer += """
    embedding_layer/layers/0/kernel       - - in out*    1   3   1
    embedding_layer/*                     out*           1   3   1
    stages/1/downsample_layers/0/*        out*           1   3   1
    stages/1/downsample_layers/1/kernel   - - in* out*   3   5   1
    stages/1/downsample_layers/1/bias     out*           1   5   1
    norm/*                                out*           1   5   1
    head/kernel                           in* -          5   1   1
    head/bias                             -              1   1   1
    """
    image = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    return Case(
        make_model,
        answer,
        base={"first": 8, "second": 12},
        target={"first": 24, "second": 60},
        inputs={"args": (image,), "kwargs": {"rngs": None}},
    )


def unet(folder: Path) -> Case:
    """Convolutions down and up again, with the way down beside them; no norms."""
    models = bonsai(folder, "unet")

    def make_model(width, rngs):
        # Its way up asks for widths that double from level to level, so they grow as one.
        widths = tuple(width * 2**level for level in range(5))
        return models.UNet(models.ModelConfig(3, 4, widths), rngs=rngs)

    answer = """
    inc/conv1/kernel   - - in out*    1   3   1
    outc/conv/kernel   - - in* -      3   1   1
    outc/conv/bias     -              1   1   1
    */kernel           - - in* out*   3   3   1
    */bias             out*           1   3   1
    """
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    return Case(make_model, answer, base={"width": 4}, target={"width": 12}, inputs=image)


def resnet(folder: Path) -> Case:
    """Bottleneck blocks with batch norms; each group has a width of its own."""
    models = bonsai(folder, "resnet")

    def make_model(widths, rngs):
        model = models.ResNet(models.ModelConfig([1, 1, 1, 1], 10), rngs=rngs)
        features = 64
        for i, width in enumerate(widths):
            blocks = models.BlockGroup(features, width, 2, 1 + (i > 0), rngs=rngs)
            setattr(model, f"layer{i}", blocks)
            features = 4 * width
        model.fc = nnx.Linear(features, 10, rngs=rngs)
        model.train()
        return model

    def group(i, r_in, r):
        first = "in*" if r_in > 1 else "in"
        return f"""
        layer{i}/blocks/0/conv0/kernel             - - {first} out*   {r_in}   {r}   1
        layer{i}/blocks/0/downsample/conv/kernel   - - {first} out*   {r_in}   {r}   1
        layer{i}/*/kernel                          - - in* out*       {r}      {r}   1
        layer{i}/*                                 out*               1        {r}   1
        """

    answer = group(0, 1, 2) + group(1, 2, 3) + group(2, 3, 5) + group(3, 5, 7)
    answer += """
    stem/conv/kernel   - - in -   1   1   1
    stem/bn/*          -          1   1   1
    fc/kernel          in* -      7   1   1
    fc/bias            -          1   1   1
    """
    return Case(
        lambda a, b, c, d, rngs: make_model((a, b, c, d), rngs),
        answer,
        base={"a": 4, "b": 4, "c": 4, "d": 4},
        target={"a": 8, "b": 12, "c": 20, "d": 28},
        inputs=jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32),
    )


def mamba2(folder: Path) -> Case:
    """Selective state space; one projection for parts of which some do not grow."""
    models = bonsai(folder, "mamba2")

    def make_model(width, head_size, rngs):
        config = models.ModelConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            state_size=4,
            head_dim=head_size,
            chunk_size=4,
            num_hidden_layers=2,
        )
        return models.Mamba2ForCausalLM(config, rngs=rngs)

    # `in_proj` and the convolution make 2·2·width, 2·4 and some heads' columns in one tensor, which
    # want different numbers. All else has one answer; the linear last norm carries the tie's 1/n.
    answer = """
    backbone/embedder/embedding              - out*     1   6   1
    backbone/layers/*/mixer/in_proj/kernel   in* out*   6   ?   1
    backbone/layers/*/conv1d/conv/kernel     - in out*  1   ?   1
    backbone/layers/*/conv1d/conv/bias       out*       1   ?   1
    backbone/layers/*/mixer/dt_bias          out*       1   2   1
    backbone/layers/*/mixer/A_log            out*       1   2   1
    backbone/layers/*/mixer/D                out*       1   2   1
    backbone/layers/*/norm/weight            out*       1   6   1
    backbone/layers/*/out_proj/kernel        in* out*   6   6   1
    backbone/final_norm/weight               out*       1   6   6^-1
    """
    return Case(
        make_model,
        answer,
        base={"width": 16, "head_size": 4},
        delta={"width": 64, "head_size": 8},
        target={"width": 96, "head_size": 12},
        inputs=TOKENS,
        apply=lambda model, tokens: model(tokens)["logits"],
        finding="modeling.py:359",
    )


def whisper(folder: Path) -> Case:
    """Encoder of sound, decoder of text with attention across, a tied readout."""
    models = bonsai(folder, "whisper")
    frames = 8

    def make_model(width, heads, d_ff, rngs):
        config = dataclasses.replace(
            models.ModelConfig.whisper_tiny(),
            d_model=width,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=d_ff,
            decoder_ffn_dim=d_ff,
            encoder_layers=2,
            decoder_layers=2,
            num_mel_bins=5,
            vocab_size=VOCABULARY,
            max_length=LENGTH,
            max_source_positions=frames,
        )
        return models.Whisper(config, rngs=rngs)

    def apply(model, sound, tokens):
        encoded = model.encoder(sound)
        mask = nnx.make_causal_mask(tokens)
        decoded = model.decoder(tokens, mask, encoded, None, decode=False)
        return model.decoder.embed_tokens.attend(decoded)

    # The last norm is linear, so scale and bias carry the 1/n that a tied readout lacks.
    answer = FLAX_ATTENTION.format("*/*attn/")
    answer += """
    encoder/conv1/kernel   - in out*    1   6   1
    encoder/conv2/kernel   - in* out*   6   6   1
    */embedding            - out*       1   6   1
    */fc1/kernel           in* out*     6   5   1
    */fc1/bias             out*         1   5   1
    */fc2/kernel           in* out*     5   6   1
    decoder/layer_norm/*   out*         1   6   6^-1
    *                      out*         1   6   1
    """
    sound = jax.ShapeDtypeStruct((2, 2 * frames, 5), jnp.float32)
    return Case(make_model, answer, **HEADS, inputs=(sound, TOKENS), apply=apply)


def gemma(folder: Path, **options: Any) -> Case:
    """Decoder with `√n` on embeddings, `1 + scale` in norms, one head of keys, a tied readout."""
    models = load(folder / "flax/examples/gemma", "transformer")
    cfg = sys.modules["transformer_cfg"]

    def make_model(width, heads, head_size, d_ff, rngs):
        config = cfg.TransformerConfig(
            num_layers=2,
            num_embed=VOCABULARY,
            embed_dim=width,
            hidden_dim=d_ff,
            num_heads=heads,
            head_dim=head_size,
            num_kv_heads=1,
            **{
                "final_logit_softcap": None,
                "use_post_attn_norm": False,
                "use_post_ffw_norm": False,
                "attention_types": (cfg.AttentionType.GLOBAL,) * 2,
                **options,
            },
        )
        return models.Transformer(config, rngs=rngs)

    def apply(model, tokens):
        mask = jnp.tril(jnp.ones((len(tokens), LENGTH, LENGTH), bool))
        positions = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
        return model(tokens, positions, None, mask, rngs=nnx.Rngs(0))[0]

    # The last norm can carry nothing, but reads a stream of any size. With all that is written to
    # it times r^-½ the table has 1/r: the stream is 1/r·√r, the logits are n terms of 1/r.
    answer = """
    embedder/embedding                      - out*         1   7   7^-1
    layers/*/attn/q_einsum/kernel           out* in* out*  7   6   2^-1/2
    layers/*/attn/kv_einsum/kernel          - - in* out*   7   2   1
    layers/*/attn/attn_vec_einsum/kernel    in* in* out*   6   7   7^-1/2
    layers/*/mlp/down_proj/kernel           in* out*       5   7   ?
    layers/*/mlp/up_proj/kernel             in* out*       7   5   ?
    layers/*/mlp/gate_proj/kernel           in* out*       7   5   1
    layers/*norm/scale                      out*           1   7   1
    final_norm/scale                        out*           1   7   1
    """
    feed_forward = "layers/{0}/mlp/up_proj/kernel * layers/{0}/mlp/down_proj/kernel"
    return Case(
        make_model,
        answer,
        products={feed_forward.format(i): "7^-1/2" for i in range(2)},
        base={"width": 16, "heads": 2, "head_size": 4, "d_ff": 24},
        target={"width": 112, "heads": 6, "head_size": 8, "d_ff": 120},
        inputs=TOKENS,
        apply=apply,
    )


def gemma3(folder: Path) -> Case:
    """Gemma with norms behind its blocks and of its queries and keys."""
    case = gemma(folder, use_post_attn_norm=True, use_post_ffw_norm=True, use_qk_norm=True)
    # Norms behind the blocks pin what is written to the stream, and so the table: times √n it has
    # (1/r)^½, and the logits are left with r^½. The norms of queries and keys pin the scores. None
    # of `1 + scale` can carry either.
    answer = """
    embedder/embedding                      - out*         1   7   7^-1/2
    layers/*/attn/q_einsum/kernel           out* in* out*  7   6   1
    layers/*/attn/kv_einsum/kernel          - - in* out*   7   2   1
    layers/*/attn/attn_vec_einsum/kernel    in* in* out*   6   7   1
    layers/*/attn/_*_norm/scale             out*           1   2   1
    layers/*/mlp/down_proj/kernel           in* out*       5   7   1
    layers/*/mlp/*/kernel                   in* out*       7   5   1
    layers/*norm/scale                      out*           1   7   1
    final_norm/scale                        out*           1   7   1
    """
    return case._replace(
        answer=answer, products={}, refused=r"(?s)modules.py:201.*transformer.py:182"
    )


def moe(folder: Path) -> Case:
    """Decoder whose feed-forward layers are experts, the best two of four by token."""
    package = types.ModuleType("tunix")
    package.__path__ = [str(folder / "tunix/tunix")]
    sys.modules["tunix"] = package
    models = load(folder / "tunix", "tunix.models.qwen3.model")

    def make_model(width, heads, kv_heads, head_size, d_ff, rngs):
        config = models.ModelConfig(
            num_layers=2,
            vocab_size=VOCABULARY,
            embed_dim=width,
            hidden_dim=d_ff,
            num_heads=heads,
            head_dim=head_size,
            num_kv_heads=kv_heads,
            rope_theta=10_000,
            norm_eps=1e-6,
            num_experts=4,
            num_experts_per_tok=2,
        )
        return models.Qwen3(config, rngs=rngs)

    def apply(model, tokens):
        mask = jnp.tril(jnp.ones((len(tokens), LENGTH, LENGTH), bool))
        positions = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
        return model(tokens, positions, None, mask)[0]

    # Experts are made in a Python loop, each from its part of a tensor: a batch axis of four.
    answer = GROUPED_ATTENTION.format("layers/*/attn/", "w")
    answer += """
    embedder/input_embedding       - out*       1    7    1
    layers/*layernorm/w            out*         1    7    1
    layers/*/mlp/router/kernel     in* -        7    1    1
    layers/*/mlp/down_proj         - in* out*   11   7    1
    layers/*/mlp/*_proj            - in* out*   7    11   1
    final_norm/w                   out*         1    7    1
    lm_head/w                      in* -        7    1    1
    """
    return Case(make_model, answer, **GROUPED, inputs=TOKENS, apply=apply)


MODELS = {
    "Qwen3": Public(*BONSAI, qwen3),
    "ViT": Public(*BONSAI, vit),
    "ConvNeXt": Public(*BONSAI, convnext),
    "U-Net": Public(*BONSAI, unet),
    "ResNet": Public(
        *BONSAI, resnet, "its widths are constants; its own groups of other widths stand in"
    ),
    "Mamba2": Public(*BONSAI, mamba2),
    "Whisper": Public(
        *BONSAI, whisper, "it has no call of its own: encoder, decoder, the table's `attend`"
    ),
    "Gemma": Public(*FLAX, gemma),
    "Gemma 3": Public(*FLAX, gemma3, factors=("2^-1/2", "7^-1/2")),
    "MoE (Qwen3)": Public(*TUNIX, moe, "imported without the trainers of its package"),
}
