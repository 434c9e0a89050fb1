"""The code of the commands, one subject per file. Each file is loaded when its command runs."""
