"""The training process's side: `attach`, `Scope`, the step engine and the publisher thread."""

from gradscope.agent.attach import attach, register_intervention, scope_of, scopes
from gradscope.agent.interventions.handle import Intervention
from gradscope.agent.scope import Scope

__all__ = ["Intervention", "Scope", "attach", "register_intervention", "scope_of", "scopes"]
