"""Writes a copy of linear_mma.cuh that is broken in one way: mutate.py NAME SOURCE TARGET."""

import sys
from pathlib import Path

# Name: the text as it is, which must stand exactly once, and what becomes of it.
MUTANTS = {
    "none": None,
    # Every thread multiplies a tile that is still on its way.
    "dropped_wait": (
        """    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();
    if (block + kStages - 1 < blocks) main.copy(""",
        """    __syncthreads();
    if (block + kStages - 1 < blocks) main.copy(""",
    ),
    # Blocks compute tiles that nobody wants and leave others out: no access is wrong, only the numbers are.
    "swapped_index": (
        "tile_m = first + inside % height, tile_n = inside / height;",
        "tile_n = first + inside % height, tile_m = inside / height;",
    ),
    # A warp stages its output over tiles that another may still read.
    "missing_barrier": ("  __syncthreads();  // the pipeline's memory becomes the staging area\n", ""),
}


def main(name: str, source: str, target: str) -> None:
    text = Path(source).read_text()
    if MUTANTS[name] is not None:
        was, becomes = MUTANTS[name]
        if (times := text.count(was)) != 1:
            sys.exit(f"mutant {name}: its text stands {times} times in {source}, expected once:\n{was}")
        text = text.replace(was, becomes)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
