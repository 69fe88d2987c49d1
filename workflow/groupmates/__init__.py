"""Group-MATES: select the part of a text pool that helps a language model most, as a group."""

__version__ = "0.1.0"
