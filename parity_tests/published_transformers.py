"""Transformers as Hugging Face publishes them, with what the bridge must be told of each.

Imports `transformers`, which only these tests need; models are small, random and built offline.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import transformers as hf
from flax import nnx

from parity_tests import flax_transformers as ours
from parity_tests.flax_transformers import (
    CLASSES,
    CLIP,
    CONTEXT,
    FRAMES,
    GROUPS,
    HEADS,
    HIDDEN,
    IMAGE,
    JOINT,
    LAYERS,
    MELS,
    PATCH,
    SIZE,
    T5,
    TOKENS,
    WIDTH,
    Decoder,
    MaskedLanguageModel,
    Style,
    VisionTransformer,
    Whisper,
)

Pairs = Mapping[str, str | tuple[str, str]]


class Published(NamedTuple):
    """A model of Hugging Face, with its counterpart.

    Args:
      torch: Function that makes the published one.
      flax: Function that makes the one here.
      pairs: All that the bridge must be told.
      inputs: Names of the inputs, in the order in which the one here takes them.
    """

    torch: Callable[[], Any]
    flax: Callable[[nnx.Rngs], nnx.Module]
    pairs: Pairs
    inputs: tuple[str, ...] = ("input_ids",)


def draw(rng: np.random.Generator, name: str) -> np.ndarray:
    """An input in the layout of PyTorch."""
    match name:
        case "pixel_values":
            return rng.normal(size=(2, 3, IMAGE, IMAGE))
        case "input_features":
            return rng.normal(size=(2, MELS, 2 * FRAMES))
    tokens = rng.integers(3, TOKENS - 1, (2, 7))
    tokens[:, -1] = TOKENS - 1  # the end of the text, where CLIP reads
    return tokens


def here(value: np.ndarray) -> Any:
    """The same in the layout of Flax, which has channels last."""
    return jax.numpy.asarray(value if value.dtype.kind == "i" else np.moveaxis(value, 1, -1))


SPECIAL = {"vocab_size": TOKENS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
HIDDEN_NAMES = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": HIDDEN,
}
GPT_NAMES = {
    **SPECIAL,
    "n_embd": WIDTH,
    "n_head": HEADS,
    "n_layer": LAYERS,
    "n_positions": CONTEXT,
    "n_inner": HIDDEN,
}
LONG = {**SPECIAL, **HIDDEN_NAMES, "max_position_embeddings": CONTEXT}
GROUPED = {**LONG, "num_key_value_heads": GROUPS}
PICTURES = {**HIDDEN_NAMES, "image_size": IMAGE, "patch_size": PATCH}

LLAMA = Style(
    "rms",
    1e-6,
    bias="",
    groups=GROUPS,
    activation=jax.nn.silu,
    gated=True,
    positions="rotary",
)
GPT_J = Style(
    order="one beside", bias="mlp", positions="rotary", rotary=SIZE // 2, interleaved=True
)
BERT = Style(order="behind", eps=1e-12, activation=ours.gelu, causal=False)


def style(base: Style, /, **changes: Any) -> Style:
    return dataclasses.replace(base, **changes)


PUBLISHED: dict[str, Published] = {
    "GPT-2": Published(
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT_NAMES)),
        lambda rngs: Decoder(Style(), rngs, tied=True),
        {
            "transformer.h.*.ln_2": "blocks/*/feed_forward_norm",
        },
    ),
    "GPT-NeoX": Published(
        lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**LONG)),
        lambda rngs: Decoder(
            Style(order="two beside", activation=ours.gelu, positions="rotary", rotary=2), rngs
        ),
        {
            "embed_out": "readout",
            "gpt_neox.layers.*.attention.query_key_value": ("blocks/*/attention", "heads q|k|v"),
            "gpt_neox.layers.*.post_attention_layernorm": "blocks/*/feed_forward_norm",
        },
    ),
    "BLOOM": Published(
        lambda: hf.BloomForCausalLM(
            hf.BloomConfig(**SPECIAL, hidden_size=WIDTH, n_head=HEADS, n_layer=LAYERS)
        ),
        lambda rngs: Decoder(
            Style(hidden=4 * WIDTH, activation=ours.bloom_gelu, positions="alibi"),
            rngs,
            tied=True,
            embed_norm=True,
        ),
        {
            "transformer.h.*.self_attention.query_key_value": ("blocks/*/attention", "heads q|k|v"),
            "transformer.h.*.post_attention_layernorm": "blocks/*/feed_forward_norm",
            "transformer.ln_f": "norm",
        },
    ),
    "GPT-J": Published(
        lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**GPT_NAMES, rotary_dim=SIZE // 2)),
        lambda rngs: Decoder(GPT_J, rngs, readout_bias=True),
        {},
    ),
    "CodeGen": Published(
        lambda: hf.CodeGenForCausalLM(hf.CodeGenConfig(**GPT_NAMES, rotary_dim=SIZE // 2)),
        lambda rngs: Decoder(GPT_J, rngs, readout_bias=True),
        {
            "transformer.h.*.attn.qkv_proj": ("blocks/*/attention", "4 q|v|k"),
        },
    ),
    "Falcon": Published(
        lambda: hf.FalconForCausalLM(
            hf.FalconConfig(
                **SPECIAL,
                hidden_size=WIDTH,
                num_attention_heads=HEADS,
                num_hidden_layers=LAYERS,
                num_kv_heads=GROUPS,
                new_decoder_architecture=True,
            )
        ),
        lambda rngs: Decoder(
            Style(
                order="two beside",
                bias="",
                groups=GROUPS,
                hidden=4 * WIDTH,
                activation=ours.gelu,
                positions="rotary",
            ),
            rngs,
            tied=True,
        ),
        {
            "transformer.h.*.self_attention.query_key_value": ("blocks/*/attention", "heads q|k|v"),
            "transformer.h.*.mlp.dense_4h_to_h": "blocks/*/feed_forward/down",
        },
    ),
    "Llama": Published(
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
        lambda rngs: Decoder(LLAMA, rngs),
        {
            "model.layers.*.post_attention_layernorm": "blocks/*/feed_forward_norm",
        },
    ),
    "Mistral": Published(
        lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED)),
        lambda rngs: Decoder(LLAMA, rngs),
        {
            "model.layers.*.post_attention_layernorm": "blocks/*/feed_forward_norm",
        },
    ),
    "Qwen2": Published(
        lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED)),
        lambda rngs: Decoder(style(LLAMA, bias="q k v"), rngs),
        {
            "model.layers.*.post_attention_layernorm": "blocks/*/feed_forward_norm",
        },
    ),
    "Qwen3": Published(
        lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED, head_dim=SIZE)),
        lambda rngs: Decoder(style(LLAMA, head_norms=True), rngs),
        {
            "model.layers.*.post_attention_layernorm": "blocks/*/feed_forward_norm",
        },
    ),
    "Gemma": Published(
        lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**GROUPED, head_dim=SIZE)),
        lambda rngs: Decoder(
            style(LLAMA, norm="offset", activation=ours.gelu_tanh),
            rngs,
            tied=True,
            embed_scale=WIDTH**0.5,
        ),
        {
            "model.layers.*.post_attention_layernorm": "blocks/*/feed_forward_norm",
        },
    ),
    "Phi-3": Published(
        lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**GROUPED)),
        lambda rngs: Decoder(style(LLAMA, eps=1e-5), rngs),
        {
            "model.layers.*.post_attention_layernorm": "blocks/*/feed_forward_norm",
            "model.layers.*.self_attn.qkv_proj": ("blocks/*/attention", "q|k|v"),
            "model.layers.*.mlp.gate_up_proj": ("blocks/*/feed_forward", "gate|up"),
        },
    ),
    "Mixtral": Published(
        lambda: hf.MixtralForCausalLM(
            hf.MixtralConfig(**GROUPED, num_local_experts=4, experts_implementation="eager")
        ),
        lambda rngs: Decoder(style(LLAMA, eps=1e-5, experts=4, base=1e6), rngs),
        {
            "model.layers.*.post_attention_layernorm": "blocks/*/feed_forward_norm",
            "model.layers.*.block_sparse_moe.experts.*.w2": "blocks/*/feed_forward/experts/*/down",
            "model.layers.*.block_sparse_moe.experts.*.w3": "blocks/*/feed_forward/experts/*/up",
        },
    ),
    "BERT": Published(
        lambda: hf.BertForMaskedLM(hf.BertConfig(**LONG)),
        lambda rngs: MaskedLanguageModel(BERT, rngs, kinds=2),
        {
            "bert.encoder.layer.*.attention.output.dense": "blocks/*/attention/out",
            "cls.predictions.transform.LayerNorm": "transform_norm",
            "cls.predictions.bias": "readout_bias",
        },
    ),
    "RoBERTa": Published(
        lambda: hf.RobertaForMaskedLM(
            hf.RobertaConfig(
                **SPECIAL | {"pad_token_id": 1, "bos_token_id": 0},
                **HIDDEN_NAMES,
                max_position_embeddings=CONTEXT + 2,
                type_vocab_size=1,
            )
        ),
        lambda rngs: MaskedLanguageModel(BERT, rngs, kinds=1, first=2),
        {
            "roberta.encoder.layer.*.attention.output.dense": "blocks/*/attention/out",
            "lm_head.layer_norm": "transform_norm",
            "lm_head.bias": "readout_bias",
        },
    ),
    "T5": Published(
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(
                vocab_size=TOKENS,
                d_model=WIDTH,
                d_kv=SIZE,
                d_ff=HIDDEN,
                num_layers=LAYERS,
                num_heads=HEADS,
            )
        ),
        lambda rngs: T5(
            Style("rms", 1e-6, bias="", activation=jax.nn.relu, positions="relative", scale=1.0),
            rngs,
        ),
        {
            "decoder.final_layer_norm": "decoder_norm",
            "decoder.block.*.layer.1.EncDecAttention.q": "decoder/*/cross/query",
            "decoder.block.*.layer.1.EncDecAttention.k": "decoder/*/cross/key",
            "decoder.block.*.layer.1.EncDecAttention.v": "decoder/*/cross/value",
            "decoder.block.*.layer.1.EncDecAttention.o": "decoder/*/cross/out",
            "decoder.block.*.layer.1.layer_norm": "decoder/*/cross_norm",
            "decoder.block.*.layer.2.layer_norm": "decoder/*/feed_forward_norm",
            "encoder.block.*.layer.1.layer_norm": "encoder/*/feed_forward_norm",
            "encoder.block.*.layer.1.DenseReluDense.wo": "encoder/*/feed_forward/down",
            "decoder.block.*.layer.2.DenseReluDense.wo": "decoder/*/feed_forward/down",
        },
        ("input_ids", "decoder_input_ids"),
    ),
    "ViT": Published(
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**PICTURES, num_labels=CLASSES)),
        lambda rngs: VisionTransformer(
            Style(eps=1e-12, activation=ours.gelu, causal=False), CLASSES, rngs
        ),
        {
            "vit.encoder.layer.*.layernorm_after": "blocks/*/feed_forward_norm",
        },
        ("pixel_values",),
    ),
    "CLIP": Published(
        lambda: hf.CLIPModel(
            hf.CLIPConfig(
                text_config=LONG | {"eos_token_id": TOKENS - 1, "projection_dim": JOINT},
                vision_config=PICTURES | {"projection_dim": JOINT},
                projection_dim=JOINT,
            )
        ),
        lambda rngs: CLIP(Style(activation=ours.quick_gelu), rngs),
        {
            "vision_model.embeddings.position_embedding.weight": "vision/positions",
            "vision_model.pre_layrnorm": "vision/norm_before",
            "vision_model.post_layernorm": "vision/norm",
            "text_model.encoder.layers.*.layer_norm2": "text/blocks/*/feed_forward_norm",
            "vision_model.encoder.layers.*.layer_norm2": "vision/blocks/*/feed_forward_norm",
        },
        ("input_ids", "pixel_values"),
    ),
    "Whisper": Published(
        lambda: hf.WhisperForConditionalGeneration(
            hf.WhisperConfig(
                **SPECIAL,
                d_model=WIDTH,
                encoder_layers=LAYERS,
                decoder_layers=LAYERS,
                encoder_attention_heads=HEADS,
                decoder_attention_heads=HEADS,
                encoder_ffn_dim=HIDDEN,
                decoder_ffn_dim=HIDDEN,
                num_mel_bins=MELS,
                max_source_positions=FRAMES,
                max_target_positions=CONTEXT,
                decoder_start_token_id=1,
            )
        ),
        lambda rngs: Whisper(Style(bias="q v out mlp", activation=ours.gelu), rngs),
        {
            "model.encoder.embed_positions.weight": "frames",
            "model.decoder.layers.*.encoder_attn.q_proj": "decoder/*/cross/query",
            "model.decoder.layers.*.encoder_attn.k_proj": "decoder/*/cross/key",
            "model.decoder.layers.*.encoder_attn.v_proj": "decoder/*/cross/value",
            "model.decoder.layers.*.encoder_attn.out_proj": "decoder/*/cross/out",
            "model.encoder.layers.*.final_layer_norm": "encoder/*/feed_forward_norm",
            "model.decoder.layers.*.final_layer_norm": "decoder/*/feed_forward_norm",
            "model.decoder.layers.*.encoder_attn_layer_norm": "decoder/*/cross_norm",
        },
        ("input_features", "decoder_input_ids"),
    ),
}
