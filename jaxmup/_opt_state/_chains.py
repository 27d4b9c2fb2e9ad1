"""The optimizers of optax, each as the chain of transforms that its alias builds.

An optimizer whose arguments add or leave out transforms has one chain for each case.
"""

_RATE = "scale_by_learning_rate"
_DECAY = "add_decayed_weights"


def _with_rate(*transforms: str) -> list[tuple[str, ...]]:
    return [(*transforms, _RATE)]


def _decoupled(*transforms: str) -> list[tuple[str, ...]]:
    return [(*transforms, _DECAY, _RATE)]


def _adafactor(parameter_scaling: bool) -> list[tuple[str, ...]]:
    """All chains that `optax.adafactor` builds, with or without its optional links."""
    scaled = ("scale_by_param_block_rms",) if parameter_scaling else ()
    return [
        ("scale_by_factored_rms", *clip, _RATE, *scaled, *momentum, *decay, "scale")
        for clip in (("clip_by_block_rms",), ())
        for momentum in ((), ("ema",))
        for decay in ((), (_DECAY,))
    ]


def _rmsprop(name: str) -> list[tuple[str, ...]]:
    return [(name, _RATE, "identity"), (name, _RATE, "trace")]


CHAINS: dict[str, list[tuple[str, ...]]] = {
    "sgd": [("identity", _RATE), ("trace", _RATE)],
    "adam": _with_rate("scale_by_adam"),
    "adamw": _decoupled("scale_by_adam"),
    "nadam": _with_rate("scale_by_adam"),
    "nadamw": _decoupled("scale_by_adam"),
    "amsgrad": _with_rate("scale_by_amsgrad"),
    "adabelief": _with_rate("scale_by_belief"),
    "adan": _decoupled("scale_by_adan"),
    "ademamix": _decoupled("scale_by_ademamix"),
    "simplified_ademamix": _decoupled("scale_by_simplified_ademamix"),
    "adamax": _with_rate("scale_by_adamax"),
    "adamaxw": _decoupled("scale_by_adamax"),
    "radam": _with_rate("scale_by_radam"),
    "yogi": _with_rate("scale_by_yogi"),
    "adopt": _with_rate("scale_by_adopt"),
    "novograd": _with_rate("scale_by_novograd"),
    "rmsprop": _rmsprop("scale_by_rms"),
    "rmsprop(eps_in_sqrt=False)": _rmsprop("scale_by_rms(eps_in_sqrt=False)"),
    "rmsprop(centered=True)": _rmsprop("scale_by_stddev"),
    "rmsprop(centered=True, eps_in_sqrt=False)": _rmsprop("scale_by_stddev(eps_in_sqrt=False)"),
    "adagrad": _with_rate("scale_by_rss"),
    "adadelta": [(_DECAY, "scale_by_adadelta", _RATE)],
    "sm3": _with_rate("scale_by_sm3"),
    "lion": _decoupled("scale_by_lion"),
    "sign_sgd": _with_rate("scale_by_sign"),
    "signum": _with_rate("ema", "scale_by_sign"),
    "rprop": [("scale_by_rprop", "scale")],
    "muon": _decoupled("scale_by_muon", "scale_by_shape"),
    "muon(adaptive=True)": _decoupled("scale_by_muon(adaptive=True)", "scale_by_shape"),
    "sophia": _decoupled("scale_by_sophia"),
    "optimistic_gradient_descent": _with_rate("scale_by_optimistic_gradient"),
    "optimistic_adam": _with_rate("scale_by_adam", "scale_by_optimistic_gradient"),
    "adafactor": _adafactor(parameter_scaling=True),
    "adafactor(multiply_by_parameter_scale=False)": _adafactor(parameter_scaling=False),
    "lamb": [("scale_by_adam", _DECAY, "scale_by_trust_ratio", _RATE)],
    "lars": [(_DECAY, "scale_by_trust_ratio", _RATE, "trace")],
    "fromage": [("scale_by_trust_ratio", _RATE, _DECAY)],
    "noisy_sgd": _with_rate("add_noise"),
    "schedule_free_adamw": _decoupled("scale_by_rms(eps_in_sqrt=False)"),
    "schedule_free_sgd": [("identity", _RATE), (_DECAY, "identity", _RATE)],
}
