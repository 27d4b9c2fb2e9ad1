"""Names in words, the same in verdicts, plots and pages."""

_PARAMETRIZATIONS = {"mup": "muP", "ntk": "NTK", "mean_field": "mean field"}


def written(parametrization: str) -> str:
    """A parametrization as people write it.

    Example:
      >>> written("mup")
      'muP'
    """
    return _PARAMETRIZATIONS.get(parametrization, parametrization)


def in_words(hyper_parameter: str) -> str:
    """A hyper-parameter in words.

    Example:
      >>> in_words("weight_decay")
      'weight decay'
    """
    return hyper_parameter.replace("_", " ")
