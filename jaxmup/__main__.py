"""`python -m jaxmup`: the command line without its entry point."""

from jaxmup.cli import main

if __name__ == "__main__":
    main()
