"""Refusals and warnings of the reader of a program, in words, with a place for the lines."""

NO_TARGET = (
    "muP asks for factors that this model lacks, and base and delta alone do not tell how large "
    "they are at a target of another depth. Give `base`, `delta` and `target` as mappings, with "
    "the depth as an entry of its own."
)
LENGTHS = (
    "A loop that hands values on must have as many iterations in `base` as in `delta`: layers and "
    "steps are no width. It differs at{}\n"
    "Give both the same number; that of `target` may be another."
)
LONGER = (
    "A loop that hands values on must have as many iterations at all sizes: layers and steps are "
    "no width. This goes on by a size that grows:{}\n"
    "Hold the number of iterations fixed; or sum over an axis at once, not in a loop."
)
UNREAD = (
    "Every operation of the model must be one of which it is known how its result grows with the "
    "width. Of these it is not:{}\n"
    "Give an `apply` that computes them with other operations."
)
MADE = (
    "A matrix must be a parameter. One that the model makes itself, by a product of activations "
    "with a parameter, has axes that muP has no rule for. It is used by{}\n"
    "Make the matrices parameters that activations choose from, or give rules and no `inputs`."
)
UNEVEN = (
    "Some parts of an axis grow otherwise than the whole. The parameters that make it, or sum "
    "over it, have one number for all parts, which is right for the whole alone. It is taken apart "
    "or put together by{}\n"
    "Make each part by a parameter of its own, such as two in place of {}, or let all parts grow "
    "alike."
)
UNCLEAR = (
    "The numbers of a table of constants must grow as one power of a size, its largest and those "
    "that are summed over alike. How others act at other widths is not known. They meet values of "
    "the model in{}\n"
    "Multiply by a power of the width that keeps them, or their sum, of one size; or make the "
    "table an input, with `input_scale`."
)
UNLIKE = (
    "Parts of one parameter do different things. It has one number for all parts, which is right "
    "for some of them alone. Parts of:{}\n"
    "Make each part a parameter of its own."
)
NOBODY = (
    "The factors that muP asks for and the model lacks must be ones that a parameter can carry. "
    "These are not:{}\n"
    "Multiply each by the inverse at its line; or give `infer` the argument `corrected=True` and "
    "call the model as `jaxmup.corrected(apply, specs)`, which does so without an edit."
)
