"""Callbacks and trackers for trainers. Each module needs its own package and is imported by its full name.

from gradscope.integrations.lightning import GradscopeCallback
from gradscope.integrations.transformers import GradscopeCallback
from gradscope.integrations.accelerate import GradscopeTracker
"""
