"""The code of the commands, one subject per file. It is loaded when a command runs."""
