"""Small models in the styles of public ones, written from scratch, with answers typed by hand.

One style a file. No model knows of jaxmup, and no answer was computed by it.
"""
