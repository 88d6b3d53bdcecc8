"""Makers: each turns one float model into the files of one candidate, with one runtime's tools."""
