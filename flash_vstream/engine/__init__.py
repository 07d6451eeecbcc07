"""Engines: what turns a prompt and a memory into an answer."""
