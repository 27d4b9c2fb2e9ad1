"""Public models of Linen, with the answers that `infer` should give, typed by hand."""

import functools
import importlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxmup
from benchmarks._public import Public, load, stand_in
from benchmarks._public_nnx import FLAX_ATTENTION, HEADS, LENGTH, TOKENS, VOCABULARY
from tests.zoo.case import Case

BIG_VISION = ("Linen", "google-research/big_vision", "0127fb6b337ee2a27bf4e54dea79cff176527356")
DIT = ("Linen", "kvfrans/jax-diffusion-transformer", "94ea6076bd934ba687ac23a165e57ed8110619af")
FLAX = ("Linen", "google/flax", "18f8f311c275d57f46d95e41b15aa97b454754c0")
HF = ("Linen", "huggingface/transformers", "v4.48.3")
NANODO = ("Linen", "google-deepmind/nanodo", "10aefdeed40a63293daf112b91a5538cd24fa3a4")
S5 = ("Linen", "lindermanlab/S5", "3c18fdb6b06414da35e77b94b9cd855f6a95ef17")

WITHOUT_FILES = "an empty module in the place of tensorflow, which only reads files there"


def nanodo(folder: Path) -> Case:
    """Decoder with attention of its own and a tied readout."""
    models = load(folder / "nanodo", "nanodo.model")

    def make_model(width, heads, d_ff):
        config = models.DoConfig(D=width, H=heads, L=LENGTH, N=2, V=VOCABULARY, F=d_ff)
        return models.TransformerDo(config)

    answer = """
    embed/embedding                     - out*          1   6   1
    pos_embed/embedding                 - out*          1   6   1
    blocks_?/CausalAttn_0/query/kernel  in* out* out*   6   6   3^-1/2
    blocks_?/CausalAttn_0/key/kernel    in* out* out*   6   6   1
    blocks_?/CausalAttn_0/value/kernel  in* out* out*   6   6   1
    blocks_?/*/attn_out_proj/kernel     in* in* out*    6   6   1
    blocks_?/Mlp_0/Dense_0/kernel       in* out*        6   5   1
    blocks_?/Mlp_0/Dense_1/kernel       in* out*        5   6   1
    blocks_?/LayerNorm_?/scale          out*            1   6   1
    out_ln/scale                        out*            1   6   6^-1
    """
    return Case(make_model, answer, **HEADS, inputs=TOKENS)


def stacked(rows: str) -> str:
    """Rows of parameters with an axis of layers in front."""
    lines = [line.split(None, 1) for line in rows.splitlines() if line.strip()]
    return "\n".join(f"{name}   - {rest.strip()}" for name, rest in lines) + "\n"


def big_vision(folder: Path, name: str) -> Any:
    """The module of a model of big_vision."""
    importlib.import_module("flax.training.checkpoints")  # which looks for the real tensorflow
    with stand_in("tensorflow.io.gfile"):
        return load(folder / "big_vision", f"big_vision.models.{name}")


def big_vision_vit(folder: Path) -> Case:
    """Vision transformer, its layers in a scan, pooled by attention of a learned probe."""
    models = big_vision(folder, "vit")

    def make_model(width, heads, d_ff):
        return models.Model(
            10,
            patch_size=(4, 4),
            width=width,
            depth=2,
            mlp_dim=d_ff,
            num_heads=heads,
            pool_type="map",
            scan=True,
        )

    attention = "MultiHeadDotProductAttention_0/"
    layers = FLAX_ATTENTION.format(f"Transformer/encoderblock/{attention}")
    layers += """
    Transformer/encoderblock/MlpBlock_0/Dense_0/kernel   in* out*   6   5   1
    Transformer/encoderblock/MlpBlock_0/Dense_0/bias     out*       1   5   1
    Transformer/encoderblock/MlpBlock_0/Dense_1/kernel   in* out*   5   6   1
    Transformer/encoderblock/*                           out*       1   6   1
    """
    answer = stacked(layers)
    # The probe makes queries too, so it may carry what their kernel could, but not their bias.
    answer += "MAPHead_0/probe   - - out*   1   6   ?\n"
    answer += f"MAPHead_0/{attention}query/kernel   in* out* out*   6   6   ?\n"
    answer += FLAX_ATTENTION.format(f"MAPHead_0/{attention}")
    answer += """
    embedding/kernel                      - - in out*   1   6   1
    embedding/bias                        out*          1   6   1
    pos_embedding                         - - out*      1   6   1
    Transformer/encoder_norm/*            out*          1   6   1
    MAPHead_0/MlpBlock_0/Dense_0/kernel   in* out*      6   5   1
    MAPHead_0/MlpBlock_0/Dense_0/bias     out*          1   5   1
    MAPHead_0/MlpBlock_0/Dense_1/kernel   in* out*      5   6   1
    MAPHead_0/*                           out*          1   6   1
    head/kernel                           in* -         6   1   1
    head/bias                             -             1   1   1
    """
    return Case(
        make_model,
        answer,
        **HEADS,
        inputs=jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),
        products={f"MAPHead_0/probe * MAPHead_0/{attention}query/kernel": "3^-1/2"},
    )


def big_vision_gemma(folder: Path, post_norms: bool = False) -> Case:
    """Gemma, its layers in a scan."""
    models = big_vision(folder, "ppp.gemma")

    def make_model(width, heads, head_size, d_ff):
        return models.Model(
            variant="gemma_2b",
            width=width,
            depth=2,
            mlp_dim=d_ff,
            num_heads=heads,
            num_kv_heads=1,
            head_dim=head_size,
            norm_eps=1e-6,
            vocab_size=VOCABULARY,
            post_norms=post_norms,
            scan=True,
        )

    # As in the NNX one; gate and up are one tensor, so what leaves them cannot carry.
    answer = """
    embedder/input_embedding      - out*           1   7   7^-1
    layers/attn/q_einsum/w        - out* in* out*  7   6   2^-1/2
    layers/attn/kv_einsum/w       - - - in* out*   7   2   1
    layers/attn/attn_vec_einsum/w - in* in* out*   6   7   7^-1/2
    layers/mlp/gating_einsum      - - in* out*     7   5   1
    layers/mlp/linear             - in* out*       5   7   7^-1/2
    layers/*norm/scale            - out*           1   7   1
    final_norm/scale              out*             1   7   1
    """
    answer = answer.replace("w -", "w   -")
    if post_norms:  # they pin the stream: the table has (1/r)^½, r^½ is left on the logits
        answer = answer.replace("7^-1/2", "1").replace("7^-1", "7^-1/2")
    return Case(
        make_model,
        answer,
        base={"width": 16, "heads": 2, "head_size": 4, "d_ff": 24},
        target={"width": 112, "heads": 6, "head_size": 8, "d_ff": 120},
        inputs=TOKENS,
        apply=lambda model, tokens: model(tokens)[0],
        refused="gemma.py:246" if post_norms else "",
    )


def wmt(folder: Path) -> Case:
    """Encoder and decoder that share a table, which is the readout too, divided by `√n`."""
    models = load(folder / "flax/examples/wmt", "models")

    def make_model(width, heads, head_size, d_ff):
        config = models.TransformerConfig(
            vocab_size=VOCABULARY,
            output_vocab_size=VOCABULARY,
            share_embeddings=True,
            logits_via_embedding=True,
            emb_dim=width,
            num_heads=heads,
            num_layers=2,
            qkv_dim=heads * head_size,
            mlp_dim=d_ff,
            max_len=LENGTH,
        )
        return models.Transformer(config)

    # The tie's n terms are divided by √n already: (1/r)^½ is lacking, which the last norm carries.
    answer = """
    shared_embedding/embedding    - out*          1   7   1
    */query/kernel                in* out* out*   7   6   2^-1/2
    */key/kernel                  in* out* out*   7   6   1
    */value/kernel                in* out* out*   7   6   1
    */out/kernel                  in* in* out*    6   7   1
    */MlpBlock_0/Dense_0/kernel   in* out*        7   5   1
    */MlpBlock_0/Dense_0/bias     out*            1   5   1
    */MlpBlock_0/Dense_1/kernel   in* out*        5   7   1
    decoder/encoderdecoder_norm/* out*            1   7   7^-1/2
    *                             out*            1   7   1
    """
    return Case(
        make_model,
        answer.replace("norm/* out", "norm/*   out"),
        base={"width": 16, "heads": 2, "head_size": 4, "d_ff": 24},
        target={"width": 112, "heads": 6, "head_size": 8, "d_ff": 120},
        inputs=(TOKENS, TOKENS),
    )


def imagenet(folder: Path) -> Case:
    """ResNet with batch norms over devices, in training."""
    models = load(folder / "flax/examples/imagenet", "models")

    def make_model(width):
        return models.ResNet([2, 1], models.BottleneckResNetBlock, 10, num_filters=width)

    answer = """
    conv_init/kernel   - - in out*    1   3   1
    Dense_0/kernel     in* -          3   1   1
    Dense_0/bias       -              1   1   1
    */kernel           - - in* out*   3   3   1
    *                  out*           1   3   1
    """
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    model = jaxmup.Model(make_model, inputs=image, axis_names=("batch",))
    return Case(model, answer, base={"width": 8}, target={"width": 24}, inputs=None)


def gnn(folder: Path) -> Case:
    """Graph network whose edges, nodes and graphs are updated from all that touches them."""
    load(folder / "jraph", "jraph")
    models = load(folder / "flax/examples/ogbg_molpcba", "models")

    def make_model(width):
        return models.GraphNet(
            latent_size=width,
            num_mlp_layers=2,
            message_passing_steps=2,
            output_globals_size=10,
            use_edge_model=True,
        )

    # Every update reads the three or four values beside each other, all of the one width.
    answer = """
    Dense_3/kernel   in* -      3   1   1
    Dense_3/bias     -          1   1   1
    Dense_?/kernel   in out*    1   3   1
    MLP_*/kernel     in* out*   3   3   1
    *                out*       1   3   1
    """
    graph = load(folder / "jraph", "jraph").GraphsTuple(
        nodes=jnp.ones((5, 4)),
        edges=jnp.ones((6, 3)),
        senders=jnp.zeros(6, int),
        receivers=jnp.zeros(6, int),
        globals=jnp.ones((2, 3)),
        n_node=jnp.array([2, 3]),
        n_edge=jnp.array([2, 4]),
    )
    return Case(make_model, answer, base={"width": 8}, target={"width": 24}, inputs=graph)


def dit(folder: Path) -> Case:
    """Diffusion transformer: norms without parameters, scaled and shifted by what it is told."""
    models = load(folder / "jax-diffusion-transformer", "diffusion_transformer")

    def make_model(width, heads, d_ff):
        return models.DiT(
            patch_size=2,
            hidden_size=width,
            depth=2,
            num_heads=heads,
            mlp_ratio=d_ff / width,
            class_dropout_prob=0.1,
            num_classes=10,
        )

    answer = FLAX_ATTENTION.format("DiTBlock_?/MultiHeadDotProductAttention_0/")
    answer += """
    pos_embed                                - - out*      1   6   1
    PatchEmbed_0/Conv_0/kernel               - - in out*   1   6   1
    TimestepEmbedder_0/Dense_0/kernel        in out*       1   6   1
    LabelEmbedder_0/Embed_0/embedding        - out*        1   6   1
    DiTBlock_?/MlpBlock_0/Dense_0/kernel     in* out*      6   5   1
    DiTBlock_?/MlpBlock_0/Dense_0/bias       out*          1   5   1
    DiTBlock_?/MlpBlock_0/Dense_1/kernel     in* out*      5   6   1
    FinalLayer_0/Dense_1/kernel              in* -         6   1   1
    FinalLayer_0/Dense_1/bias                -             1   1   1
    */kernel                                 in* out*      6   6   1
    */bias                                   out*          1   6   1
    """
    image = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32)
    number = jax.ShapeDtypeStruct((2,), jnp.int32)
    return Case(make_model, answer, **HEADS, inputs=(image, number, number))


def s5(folder: Path) -> Case:
    """Diagonal state space of complex eigenvalues, a parallel scan over time, batch norms."""
    jnp.DeviceArray = jax.Array  # type: ignore[attr-defined]
    ssm = load(folder / "S5", "s5.ssm")
    init, models = load(folder / "S5", "s5.ssm_init"), load(folder / "S5", "s5.seq_model")

    def make_model(width, state):
        eigenvalues, _, _, vectors, _ = init.make_DPLR_HiPPO(2 * state)
        eigenvalues, vectors = eigenvalues[:state], vectors[:, :state]
        layer = ssm.init_S5SSM(
            H=width,
            P=state,
            Lambda_re_init=eigenvalues.real,
            Lambda_im_init=eigenvalues.imag,
            V=vectors,
            Vinv=vectors.conj().T,
            C_init="trunc_standard_normal",
            discretization="zoh",
            dt_min=0.001,
            dt_max=0.1,
            conj_sym=True,
            clip_eigs=False,
            bidirectional=False,
        )
        return models.BatchClassificationModel(
            ssm=layer,
            d_output=10,
            d_model=width,
            n_layers=2,
            padded=False,
            activation="half_glu1",
            prenorm=True,
            batchnorm=True,
        )

    # `B` maps the width to the state and `C` back; eigenvalues and steps are a number or two of
    # each component of the state, as biases are.
    answer = """
    encoder/encoder/kernel                in out*      1   7   1
    encoder/layers_?/seq/Lambda_*         out*         1   3   1
    encoder/layers_?/seq/log_step         out* -       1   3   1
    encoder/layers_?/seq/B                out* in* -   7   3   1
    encoder/layers_?/seq/C                out* in* -   3   7   1
    encoder/layers_?/seq/D                out*         1   7   1
    encoder/layers_?/out2/kernel          in* out*     7   7   1
    decoder/kernel                        in* -        7   1   1
    decoder/bias                          -            1   1   1
    *                                     out*         1   7   1
    """
    sequence = jax.ShapeDtypeStruct((2, LENGTH, 5), jnp.float32)
    times = jax.ShapeDtypeStruct((2, LENGTH), jnp.float32)
    return Case(
        make_model,
        answer,
        base={"width": 8, "state": 4},
        target={"width": 56, "state": 12},
        inputs=(sequence, times),
    )


def hf(folder: Path, name: str) -> Any:
    """The module of a model of transformers."""
    return load(folder / "transformers", f"transformers.models.{name}.modeling_flax_{name}")


def gpt2(folder: Path) -> Case:
    """Decoder whose queries, keys and values are one tensor; a tied readout."""
    models = hf(folder, "gpt2")

    def make_model(width, heads, d_ff):
        config = models.GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=LENGTH,
            n_embd=width,
            n_head=heads,
            n_inner=d_ff,
            n_layer=2,
        )
        return models.FlaxGPT2LMHeadModule(config)

    # Queries and keys carry a half of (1/r)^½ each, and the values that are of the same tensor too,
    # which the projection behind them makes good.
    answer = """
    transformer/wte/embedding            - out*     1   6   1
    transformer/wpe/embedding            - out*     1   6   1
    transformer/h/?/attn/c_attn/kernel   out* in*   6   6   3^-1/4
    transformer/h/?/attn/c_attn/bias     out*       1   6   3^-1/4
    transformer/h/?/attn/c_proj/kernel   out* in*   6   6   3^1/4
    transformer/h/?/mlp/c_fc/kernel      out* in*   6   5   1
    transformer/h/?/mlp/c_fc/bias        out*       1   5   1
    transformer/h/?/mlp/c_proj/kernel    out* in*   5   6   1
    transformer/ln_f/*                   out*       1   6   6^-1
    *                                    out*       1   6   1
    """
    inputs = (TOKENS, TOKENS, TOKENS)  # tokens, mask, positions
    return Case(make_model, answer, **HEADS, inputs=inputs, apply=_logits)


def bert(folder: Path) -> Case:
    """Encoder with norms behind its blocks, a tied readout and a second one beside it."""
    models = hf(folder, "bert")

    def make_model(width, heads, d_ff):
        config = models.BertConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=LENGTH,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=d_ff,
            num_hidden_layers=2,
        )
        return models.FlaxBertForPreTrainingModule(config)

    # Only the tied readout reads the norm of the transform, which carries 1/r for it alone.
    answer = """
    bert/embeddings/*/embedding             - out*     1   6   1
    */query/kernel                          in* out*   6   6   3^-1/2
    */query/bias                            out*       1   6   3^-1/2
    */intermediate/dense/kernel             in* out*   6   5   1
    */intermediate/dense/bias               out*       1   5   1
    bert/encoder/layer/?/output/*/kernel    in* out*   5   6   1
    cls/predictions/transform/LayerNorm/*   out*       1   6   6^-1
    cls/predictions/bias                    -          1   1   1
    cls/seq_relationship/kernel             in* -      6   1   1
    cls/seq_relationship/bias               -          1   1   1
    */kernel                                in* out*   6   6   1
    *                                       out*       1   6   1
    """
    # Tokens, mask, kinds of tokens, positions and a mask of heads.
    inputs = {"args": (TOKENS, TOKENS, TOKENS, TOKENS, None), "kwargs": {}}
    apply = functools.partial(_logits, fields=("prediction_logits", "seq_relationship_logits"))
    return Case(make_model, answer, **HEADS, inputs=inputs, apply=apply)


def _logits(model: Any, *args: Any, fields: tuple[str, ...] = ("logits",)) -> Any:
    returned = model(*args)
    return [returned[field] for field in fields]


MODELS = {
    "nanodo": Public(*NANODO, nanodo),
    "ViT (big_vision)": Public(*BIG_VISION, big_vision_vit, WITHOUT_FILES),
    "Gemma (big_vision)": Public(*BIG_VISION, big_vision_gemma, WITHOUT_FILES),
    "Gemma 2 (big_vision)": Public(
        *BIG_VISION,
        functools.partial(big_vision_gemma, post_norms=True),
        WITHOUT_FILES,
        factors=("7^-1/2",),
    ),
    "WMT": Public(*FLAX, wmt),
    "ImageNet ResNet": Public(*FLAX, imagenet),
    "GNN (ogbg_molpcba)": Public(*FLAX, gnn, "with jraph 0.0.6.dev0"),
    "DiT": Public(*DIT, dit),
    "S5": Public(*S5, s5, "jax.Array in the place of DeviceArray, which JAX has no longer"),
    "GPT-2": Public(*HF, gpt2),
    "BERT": Public(*HF, bert),
}
