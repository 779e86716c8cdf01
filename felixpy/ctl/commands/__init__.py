"""One module per command of felixctl; ../main.py lists them."""
