"""`python -m autoprompt`: the command line."""

from autoprompt.cli import main

main()
