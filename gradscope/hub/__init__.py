"""The broker between training processes and viewers: `python -m gradscope.hub`.

This file imports nothing, so that the process can detach before it loads other modules.
"""
