"""python -m fuzz.search MODULE [options of libFuzzer] CORPUS: atheris on MODULE.TARGET, until `-runs` is used up."""

import ast
import importlib
import random
import sys
from pathlib import Path

import atheris


def modules_of(module: str) -> tuple[str, ...]:
    """The names that TARGET gives as `modules`: they must be known before the module, and what it tests, is loaded."""
    source = Path(__file__).with_name(f"{module.rpartition('.')[2]}.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "modules":
            return tuple(ast.literal_eval(node.value))
    raise LookupError(f"{module} has no TARGET with modules")


if __name__ == "__main__":
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=list(modules_of(name))):
        target = importlib.import_module(name).TARGET
    from fuzz.fuzzing import mutated, tried

    def one(data: bytes) -> None:
        """Check one input."""
        tried(target, data)

    def other(data: bytes, longest: int, seed: int) -> bytes:
        """Mutate by what the target's inputs are made of, or as libFuzzer does."""
        dice = random.Random(seed)
        if dice.random() < 0.5:
            return atheris.Mutate(data, longest)
        return mutated(dice, target, dice.choice((data, None)))[:longest]

    atheris.Setup([sys.argv[0], *options], one, custom_mutator=other)
    atheris.Fuzz()
