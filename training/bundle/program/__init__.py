"""The program of a bundle: model.pt2, read against lists of what it may hold, and run without torch's loader.

`torch.export.load` evaluates strings of the archive (`sympy.sympify` of sizes, guards, names below `torch.`), so that a
program can run any code, and it imports torch._dynamo and sympy. Here, what is not listed is refused.

Other files use `read_program` (reader.py, without torch) and `ProgramModule` (interpreter.py).
"""
