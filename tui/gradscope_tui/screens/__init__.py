"""What lies over the main screen for a moment: a question, a form, the help, the runs."""
