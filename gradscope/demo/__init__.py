"""What `gradscope demo` trains: a small GPT that learns the help texts of Python itself."""
