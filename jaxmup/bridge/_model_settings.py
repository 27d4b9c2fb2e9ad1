"""Settings of a whole model: a module of PyTorch, or a configuration of Hugging Face."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from jaxmup.bridge._layer_settings import TorchModule
from jaxmup.bridge._orders import orders_of

Settings: TypeAlias = TorchModule | Mapping[str, Any] | str | os.PathLike[str]
"""A `torch.nn.Module`, a configuration of Hugging Face, or the path of its `config.json`."""

_EPSILON = (
    "layer_norm_eps",
    "layer_norm_epsilon",
    "layernorm_epsilon",
    "rms_norm_eps",
    "norm_epsilon",
    "norm_eps",
)
_ACTIVATION = ("hidden_act", "hidden_activation", "activation_function", "dense_act_fn")
_SCALE = (
    "attention_multiplier",
    "query_pre_attn_scalar",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
)
_UNSCALED = ("gpt_neo", "mt5", "t5", "umt5")  # types of models whose factor is 1
_OTHER = (
    "attn_logit_softcapping",
    "embedding_multiplier",
    "final_logit_softcapping",
    "logits_scaling",
    "partial_rotary_factor",
    "relative_attention_num_buckets",
    "residual_multiplier",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rotary_dim",
    "rotary_pct",
    "scale_embedding",
    "sliding_window",
)
EXACT, APPROXIMATE = "jax.nn.gelu(x, approximate=False)", "jax.nn.gelu(x)"
# The names of activations in configurations and of their classes, as `transformers.activations`
# has them.
_IN_JAX = MappingProxyType(
    {
        "gelu": EXACT,
        "gelu_python": EXACT,
        "GELUActivation": EXACT,
        "gelu_new": APPROXIMATE,
        "gelu_fast": APPROXIMATE,
        "gelu_accurate": APPROXIMATE,
        "gelu_pytorch_tanh": APPROXIMATE,
        "gelu_python_tanh": APPROXIMATE,
        "NewGELUActivation": APPROXIMATE,
        "FastGELUActivation": APPROXIMATE,
        "AccurateGELUActivation": APPROXIMATE,
        "PytorchGELUTanh": APPROXIMATE,
        "GELUTanh": APPROXIMATE,
        "BloomGelu": APPROXIMATE,
        "quick_gelu": "x * jax.nn.sigmoid(1.702 * x)",
        "QuickGELUActivation": "x * jax.nn.sigmoid(1.702 * x)",
        "relu2": "jax.nn.relu(x) ** 2",
        "relu": "jax.nn.relu(x)",
        "silu": "jax.nn.silu(x)",
        "swish": "jax.nn.silu(x)",
        "tanh": "jax.numpy.tanh(x)",
    }
)


class ModelSettings(NamedTuple):
    """Settings of a whole model.

    Args:
      modules: Modules of PyTorch by name; none of a configuration.
      epsilons: Values that a configuration has for the eps of norms.
      activations: Activations by their names there, with the same in JAX; empty where no name of
        it is known.
      scales: What a configuration says of the factor on the logits of attention.
      others: What else a configuration says that changes outputs.
      model_type: Type of the model by its configuration; empty if it says none.
      orders: Orders in which the model packs layers, as pairs spell them.
    """

    modules: Mapping[str, TorchModule]
    epsilons: tuple[float, ...]
    activations: Mapping[str, str]
    scales: Mapping[str, Any]
    others: Mapping[str, Any]
    model_type: str = ""
    orders: tuple[str, ...] = ()


def open_settings(settings: Settings) -> ModelSettings:
    """Reads the settings of a model.

    Raises:
      OSError: if a file cannot be read.
      TypeError: if it is neither a module, a configuration nor a path.
      ValueError: if a file holds no JSON, or a configuration no setting that is known.
    """
    held: Any = settings
    if hasattr(held, "named_modules"):
        return _of_module(held)
    if hasattr(held, "to_dict"):
        held = held.to_dict()
    elif isinstance(held, str | os.PathLike):
        held = _read(Path(held))
    if not isinstance(held, Mapping):
        raise TypeError(
            "`settings` must be a module of PyTorch, a configuration of Hugging Face or the path "
            f"of its config.json. Got {type(held).__name__}."
        )
    found = _of_config(held)
    if not any(found._replace(model_type="")):
        raise ValueError(
            "`settings` must say something that no tensor holds, such as 'layer_norm_eps' or "
            f"'hidden_act'. Got {sorted(map(str, held))}."
        )
    return found


def _of_module(module: TorchModule) -> ModelSettings:
    modules = dict(module.named_modules())
    config = getattr(module, "config", None)
    found = _of_config(
        config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    )
    gelus = {name: x for inner in modules.values() for name, x in _gelu(inner)}
    # What norms there are is known better of the modules.
    return found._replace(modules=modules, epsilons=(), activations=found.activations or gelus)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: a configuration must be JSON. {error}") from None


def _of_config(config: Mapping[str, Any]) -> ModelSettings:
    items = list(_items(config))

    def under(names: tuple[str, ...]) -> dict[str, Any]:
        return {key: x for key, x in items if key.rpartition(".")[2] in names and x is not None}

    epsilons = {x for x in under(_EPSILON).values() if isinstance(x, float | int)}
    names = {x for x in under(_ACTIVATION).values() if isinstance(x, str)}
    kind = config.get("model_type")
    unscaled = {"model_type": kind} if kind in _UNSCALED else {}
    return ModelSettings(
        {},
        tuple(sorted(epsilons)),
        {name: _IN_JAX.get(name, "") for name in sorted(names)},
        under(_SCALE) | unscaled,
        under(_OTHER),
        kind if isinstance(kind, str) else "",
        orders_of(config),
    )


def _items(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The items of a configuration and of those within, such as `text_config`."""
    for key, value in config.items():
        if isinstance(value, Mapping) and str(key).endswith("_config"):
            yield from ((f"{key}.{name}", held) for name, held in _items(value))
        else:
            yield str(key), value


def _gelu(module: TorchModule) -> Iterator[tuple[str, str]]:
    """The GELU that a module is, if it is one, with the same in JAX."""
    name = type(module).__name__
    if name == "GELU" and hasattr(module, "approximate"):
        kind = APPROXIMATE if module.approximate == "tanh" else EXACT
        yield f"GELU(approximate={module.approximate!r})", kind
    elif "gelu" in name.lower() and name in _IN_JAX:
        yield name, _IN_JAX[name]
