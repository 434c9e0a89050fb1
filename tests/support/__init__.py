"""What tests of several rooms share: `from support import …`, as tests/conftest.py puts it on the path."""
