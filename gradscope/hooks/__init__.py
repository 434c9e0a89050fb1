"""Names of layers, tensors in any output, and hooks that leave no trace."""

from gradscope.hooks.backward import GradientHook, is_recomputing, watch_gradient
from gradscope.hooks.calls import CallHooks
from gradscope.hooks.clipping import ClippingHook
from gradscope.hooks.compiled import CompiledHook, Seen, has_compiled
from gradscope.hooks.eager import EagerStance
from gradscope.hooks.forward import ForwardHook, SlotTable, quiet_about_global_hooks
from gradscope.hooks.inputs import InputHook
from gradscope.hooks.layers import LayerInfo, LayerPatterns, choose_layers, layers_of, match_names
from gradscope.hooks.modes import hidden_from_modes, is_plain, is_transforming
from gradscope.hooks.optimizers import Closure, OptimizerHook, StepHook, parameters_of
from gradscope.hooks.structure import OwnedIds, Structure, owned_ids
from gradscope.hooks.tensors import find_tensors, is_measurable, replace_tensors
from gradscope.hooks.untraced import untraced
from gradscope.hooks.whole import OutputHook

__all__ = [
    "CallHooks",
    "ClippingHook",
    "Closure",
    "CompiledHook",
    "EagerStance",
    "ForwardHook",
    "GradientHook",
    "InputHook",
    "LayerInfo",
    "LayerPatterns",
    "OptimizerHook",
    "OutputHook",
    "OwnedIds",
    "Seen",
    "SlotTable",
    "StepHook",
    "Structure",
    "choose_layers",
    "find_tensors",
    "has_compiled",
    "hidden_from_modes",
    "is_measurable",
    "is_plain",
    "is_recomputing",
    "is_transforming",
    "layers_of",
    "match_names",
    "owned_ids",
    "parameters_of",
    "quiet_about_global_hooks",
    "replace_tensors",
    "untraced",
    "watch_gradient",
]
