"""How the commands read their arguments, and what they say of a mistake: one line."""

import argparse
from typing import NoReturn

from agentd.cli import USAGE


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")
