"""The folder that `gradscope run` puts at the front of PYTHONPATH."""
