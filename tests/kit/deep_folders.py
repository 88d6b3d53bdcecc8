"""A folder so deep that neither a recursion nor a path reaches its end."""

import contextlib
import os
import subprocess


@contextlib.contextmanager
def deep_folders(folder, depth, name, data):
    """Have folders in folders, and the picture ``1.png`` in the innermost; remove them at the end."""
    inner = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=inner)
        inner, outer = os.open(name, os.O_RDONLY, dir_fd=inner), inner
        os.close(outer)
    with open("1.png", "wb", opener=lambda path, flags: os.open(path, flags, dir_fd=inner)) as file:
        file.write(data)
    os.close(inner)
    try:
        yield
    finally:  # shutil.rmtree recurses
        subprocess.run(["rm", "-r", folder / name], check=True)
