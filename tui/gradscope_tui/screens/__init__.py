"""The main screen, and the modal screens above it: questions, the form, the help, the runs."""
