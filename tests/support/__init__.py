"""What tests of several rooms share: `from support import …`; conftest.py puts it on the path."""
