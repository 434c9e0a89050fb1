"""The texts of questions and refusals."""

__all__ = ["PAUSE_TEXT", "QUIT_TEXT", "READONLY_TEXT", "RECORDING_TEXT"]

PAUSE_TEXT = (
    "Training pauses after the current step, while this screen is open.\n"
    "It resumes automatically 60 s after the screen closes."
)
QUIT_TEXT = (
    "\n\n  [b $primary]r[/]   remove, then quit"
    "\n  [b $primary]l[/]   leave active for 60 s after this viewer has disconnected"
)

READONLY_TEXT = (
    "This screen was opened read-only: it cannot change the training. "
    "gradscope watch opens one that can; in a browser, gradscope watch --web --control."
)

RECORDING_TEXT = (
    "This is a recording: nothing is sent to a run, so training cannot be changed. "
    "Press R for the live runs."
)
