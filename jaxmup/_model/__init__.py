"""The user's model, made once: every tool takes a `Model`, or the function that makes one."""

from jaxmup._model._arguments import call_with_size as call_with_size
from jaxmup._model._instance import Instance as Instance
from jaxmup._model._model import MakeModel as MakeModel
from jaxmup._model._model import Model as Model
from jaxmup._model._model import as_model as as_model
from jaxmup._model._parts import Apply as Apply
from jaxmup._model._parts import Parts as Parts
from jaxmup._model._users import as_loss as as_loss
