"""The broker between training processes and viewers: `python -m gradscope.hub`.

Nothing is imported here, so that the process can detach before it loads anything.
"""
