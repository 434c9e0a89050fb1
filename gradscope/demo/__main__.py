"""`python -m gradscope.demo` trains the small GPT; `--help` lists the options."""

from gradscope.demo.train import main

if __name__ == "__main__":
    main()
