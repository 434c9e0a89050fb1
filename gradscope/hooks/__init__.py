"""Layer names, tensors inside module outputs, and hooks that do not modify the model."""

from gradscope.hooks.autograd_nodes import find_functions, find_nodes
from gradscope.hooks.backward_root import BackwardRootHook
from gradscope.hooks.clipping import ClippingHook
from gradscope.hooks.compile.compiled import CompiledHook, Seen, has_compiled
from gradscope.hooks.compile.dynamo_disable import untraced
from gradscope.hooks.compile.force_eager import EagerStance
from gradscope.hooks.forward import (
    ForwardHook,
    InputHook,
    OutputHook,
    SlotTable,
    quiet_about_global_hooks,
)
from gradscope.hooks.layers import (
    LayerInfo,
    LayerPatterns,
    choose_layers,
    layers_of,
    original_module,
)
from gradscope.hooks.loss_scaler import LossScalerHook
from gradscope.hooks.model_inputs import ModelInputHook
from gradscope.hooks.modes import hidden_from_modes, is_plain, is_traced, is_transforming
from gradscope.hooks.module_calls import CallHooks
from gradscope.hooks.next_forward import NextForwardHook
from gradscope.hooks.optimizers import Closure, OptimizerHook, StepHook, parameters_of
from gradscope.hooks.outer_forward import OuterForwardHook
from gradscope.hooks.structure import OwnedIds, Structure, owned_ids
from gradscope.hooks.tensor_hook import GradientHook, is_in_backward, is_recomputing, watch_gradient
from gradscope.hooks.tensors import (
    find_tensors,
    gradient_of,
    is_measurable,
    is_sharded,
    local_part,
    replace_tensors,
    size_bytes_of,
    stored_parts,
)
from gradscope.hooks.tracebacks import frames_of

__all__ = [
    "BackwardRootHook",
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
    "LossScalerHook",
    "ModelInputHook",
    "NextForwardHook",
    "OptimizerHook",
    "OuterForwardHook",
    "OutputHook",
    "OwnedIds",
    "Seen",
    "SlotTable",
    "StepHook",
    "Structure",
    "choose_layers",
    "find_functions",
    "find_nodes",
    "find_tensors",
    "frames_of",
    "gradient_of",
    "has_compiled",
    "hidden_from_modes",
    "is_in_backward",
    "is_measurable",
    "is_plain",
    "is_recomputing",
    "is_sharded",
    "is_traced",
    "is_transforming",
    "layers_of",
    "local_part",
    "original_module",
    "owned_ids",
    "parameters_of",
    "quiet_about_global_hooks",
    "replace_tensors",
    "size_bytes_of",
    "stored_parts",
    "untraced",
    "watch_gradient",
]
