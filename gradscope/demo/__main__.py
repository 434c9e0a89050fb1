"""`python -m gradscope.demo` trains the small GPT; `--help` says how."""

from gradscope.demo.train import main

if __name__ == "__main__":
    main()
