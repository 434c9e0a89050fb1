"""The same UI in a browser: a server for this machine only, and a process of the UI for each page.

`serve` in `server.py` starts it. Needs the packages of `pip install 'gradscope[web]'`.
"""
